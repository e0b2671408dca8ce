"""Drawing in body heights on an image three times as fine as the result."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from data.synthetic.colours import Colour
from data.synthetic.pose import Point

WIDTH, HEIGHT = 64, 128
FINENESS = 3


class Canvas:
    """A transparent layer with a coordinate frame: x to the right of a body's axis, y down from its crown.

    Args:
        image: RGBA layer to draw on.
        axis: Where the frame's origin lies, in pixels of the finished image.
        scale: Length of one body height, in pixels of the finished image.
    """

    def __init__(self, image: Image.Image, axis: Point = (0.0, 0.0), scale: float = 1.0) -> None:
        self._image = image
        self._draw = ImageDraw.Draw(image)
        self._axis = axis
        self._scale = scale

    @staticmethod
    def blank() -> Image.Image:
        """A transparent layer of the drawing resolution."""
        return Image.new("RGBA", (WIDTH * FINENESS, HEIGHT * FINENESS))

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fills a polygon."""
        self._draw.polygon([self._pixel(point) for point in points], fill=colour)

    def ellipse(self, centre: Point, half: Point, colour: Colour) -> None:
        """Fills an ellipse with the given half axes."""
        x, y = centre
        self._draw.ellipse([self._pixel((x - half[0], y - half[1])), self._pixel((x + half[0], y + half[1]))], colour)

    def box(self, centre: Point, half: Point, colour: Colour, radius: float = 0.0) -> None:
        """Fills a rectangle with rounded corners."""
        x, y = centre
        corners = [self._pixel((x - half[0], y - half[1])), self._pixel((x + half[0], y + half[1]))]
        self._draw.rounded_rectangle(corners, radius * self._scale * FINENESS, fill=colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draws connected lines."""
        pixels = max(1, round(width * self._scale * FINENESS))
        self._draw.line([self._pixel(point) for point in points], colour, pixels, joint="curve")

    def limb(self, joints: Sequence[Point], radii: Sequence[float], colour: Colour) -> None:
        """Draws bones with round joints; the radius changes from joint to joint."""
        for joint, radius in zip(joints, radii, strict=True):
            self.ellipse(joint, (radius, radius), colour)
        for (start, end), (thick, thin) in zip(pairwise(joints), pairwise(radii), strict=True):
            length = math.dist(start, end) or 1.0
            across = ((end[1] - start[1]) / length, (start[0] - end[0]) / length)
            corners = [(start, thick), (end, thin), (end, -thin), (start, -thick)]
            self.polygon([(x + across[0] * r, y + across[1] * r) for (x, y), r in corners], colour)

    def textured(self, points: Sequence[Point], paint: Callable[[tuple[int, int], float], Image.Image]) -> None:
        """Fills a polygon with cloth: `paint(size, unit)` gives an image of that size, unit pixels per body height."""
        pixels = [self._pixel(point) for point in points]
        left, top = round(min(x for x, _ in pixels)), round(min(y for _, y in pixels))
        size = (math.ceil(max(x for x, _ in pixels)) - left + 1, math.ceil(max(y for _, y in pixels)) - top + 1)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        self._image.paste(paint(size, self._scale * FINENESS), (left, top), mask)

    def _pixel(self, point: Point) -> Point:
        x = (self._axis[0] + point[0] * self._scale) * FINENESS
        return x, (self._axis[1] + point[1] * self._scale) * FINENESS
