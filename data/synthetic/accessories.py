"""Draws what tells persons apart besides their clothes: face, hair, hat and bag."""

from data.synthetic.canvas import Canvas
from data.synthetic.colours import CLOTHES, Colour, shaded
from data.synthetic.identity import Person
from data.synthetic.pose import SHOULDER, Point, View, hip_height

_HEAD: Point = (0.0, 0.078)
_RADII: Point = (0.055, 0.07)
_EYES: Colour = (45, 36, 34)
_LONG = {"bob": 0.15, "long": 0.24}


def draw_head(canvas: Canvas, person: Person, view: View) -> None:
    """Draws neck, hair, face and hat."""
    x, y = view.x(0.0, 0.012), _HEAD[1]
    canvas.limb([(0.0, SHOULDER - 0.01), (x, y + 0.03)], (0.03, 0.028), shaded(person.skin, 0.86))
    wide = 1.0 + 0.08 * abs(view.side)
    half = (_RADII[0] * wide, _RADII[1])
    canvas.ellipse((x, y), half, person.skin)
    _draw_hair(canvas, person, view, (x, y), half)
    if view.facing > -0.45:
        _draw_face(canvas, person, view, (x, y), half)
    if person.hair == "ponytail":
        tail = (x - 0.075 * view.side, y - 0.01)
        canvas.limb(
            [(x - 0.05 * view.side, y - 0.03), tail, (tail[0], y + 0.08)], (0.016, 0.02, 0.01), person.hair_colour
        )
    if person.hat != "none":
        _draw_hat(canvas, person, view, (x, y), half)


def draw_long_hair(canvas: Canvas, person: Person, view: View) -> None:
    """Draws hair that falls below the head; a body that faces the camera hides it, so draw it first then, else last."""
    if person.hair not in _LONG:
        return
    x, bottom = view.x(0.0, -0.018), _LONG[person.hair]
    middle = (_HEAD[1] + bottom) / 2
    canvas.box((x, middle), (_RADII[0] * 1.12, bottom - middle), shaded(person.hair_colour, 0.92), 0.035)


def draw_bag_behind(canvas: Canvas, person: Person, view: View) -> None:
    """Draws the part of a bag that the body hides."""
    if person.bag == "backpack" and view.facing > 0:
        _draw_backpack(canvas, person, view)
    if person.bag == "shoulder bag" and view.depth(-0.13) < -0.05:
        _draw_pouch(canvas, person, view)


def draw_bag_before(canvas: Canvas, person: Person, view: View) -> None:
    """Draws the part of a bag that hides the body."""
    colour = CLOTHES[person.bag_colour]
    if person.bag == "backpack":
        if view.facing <= 0:
            _draw_backpack(canvas, person, view)
        for lateral in (-0.062, 0.062):
            if view.depth(lateral, 0.06) > 0.02:
                top, bottom = view.x(lateral, 0.02), view.x(lateral, 0.066)
                canvas.line(
                    [(top, SHOULDER - 0.02), (bottom, SHOULDER + 0.03), (bottom, 0.37)], 0.034, shaded(colour, 0.85)
                )
    if person.bag == "shoulder bag":
        forward = 0.06 if view.facing > 0 else -0.06
        strap = [
            (view.x(0.06), SHOULDER - 0.015),
            (view.x(0.0, forward), 0.31),
            (view.x(-0.12), hip_height(person) - 0.04),
        ]
        canvas.line(strap, 0.028, shaded(colour, 0.85))
        if view.depth(-0.13) >= -0.05:
            _draw_pouch(canvas, person, view)


def draw_tote(canvas: Canvas, person: Person, hand: Point) -> None:
    """Draws a bag carried in a hand."""
    if person.bag != "tote":
        return
    x, y = hand
    colour = CLOTHES[person.bag_colour]
    canvas.line([(x - 0.035, y + 0.06), (x, y), (x + 0.035, y + 0.06)], 0.012, shaded(colour, 0.7))
    canvas.box((x, y + 0.12), (0.062, 0.066), colour, 0.01)


def _draw_backpack(canvas: Canvas, person: Person, view: View) -> None:
    colour = CLOTHES[person.bag_colour]
    half = view.half_width(0.098, 0.055)
    centre = (view.x(0.0, -0.09), 0.305)
    canvas.box(centre, (half, 0.13), colour, 0.04)
    if view.facing < 0.5:
        canvas.box((view.x(0.0, -0.1), 0.36), (half * 0.72, 0.045), shaded(colour, 0.75), 0.015)


def _draw_pouch(canvas: Canvas, person: Person, view: View) -> None:
    colour = CLOTHES[person.bag_colour]
    centre = (view.x(-0.125 * person.build, 0.0), hip_height(person) + 0.02)
    half = view.half_width(0.045, 0.085)
    canvas.box(centre, (half, 0.075), colour, 0.015)
    canvas.box((centre[0], centre[1] - 0.035), (half, 0.03), shaded(colour, 0.78), 0.015)


def _draw_hair(canvas: Canvas, person: Person, view: View, centre: Point, half: Point) -> None:
    x, y = centre
    colour = person.hair_colour
    if person.hair == "bald":
        return
    if person.hair == "afro":
        canvas.ellipse((x - 0.01 * view.side, y - 0.018), (half[0] * 1.5, half[1] * 1.22), colour)
        return
    canvas.ellipse((x - 0.008 * view.side, y - 0.01), (half[0] * 1.1, half[1] * 1.05), colour)
    if person.hair == "bun":
        canvas.ellipse((x - 0.035 * view.side, y - 0.078), (0.03, 0.027), shaded(colour, 0.9))


def _draw_face(canvas: Canvas, person: Person, view: View, centre: Point, half: Point) -> None:
    x, y = centre
    turned = max(0.0, view.facing + 0.45) / 1.45
    width = half[0] * (0.5 + 0.42 * turned)
    middle = x + (half[0] - width) * (1 if view.side > 0 else -1) * min(1.0, abs(view.side) * 1.4)
    canvas.ellipse((middle, y + 0.014), (width, half[1] * 0.8), person.skin)
    for lateral in (-0.022, 0.022):
        if view.depth(lateral, 0.05) > 0.008:
            canvas.ellipse((x + view.x(lateral, 0.046), y + 0.008), (0.0075, 0.01), _EYES)
    if view.facing > 0.1:
        mouth = x + view.x(0.0, 0.044)
        canvas.line(
            [(mouth - 0.014 * view.facing, y + 0.046), (mouth + 0.014 * view.facing, y + 0.046)],
            0.008,
            shaded(person.skin, 0.6),
        )


def _draw_hat(canvas: Canvas, person: Person, view: View, centre: Point, half: Point) -> None:
    x, y = centre
    colour = CLOTHES[person.hat_colour]
    wide = half[0] * 1.16
    dome = [(x - wide, y - 0.02), (x - wide * 0.9, y - 0.06), (x - wide * 0.5, y - 0.086)]
    canvas.polygon([*dome, *[(2 * x - px, py) for px, py in reversed(dome)]], colour)
    match person.hat:
        case "cap":
            brim = x + view.x(0.0, 0.06)
            if view.facing > -0.3:
                canvas.ellipse((brim, y - 0.022), (view.half_width(0.05, 0.04), 0.014), shaded(colour, 0.7))
        case "beanie":
            canvas.box((x, y - 0.022), (wide * 1.02, 0.016), shaded(colour, 0.8), 0.01)
            canvas.ellipse((x, y - 0.092), (0.018, 0.016), shaded(colour, 1.2))
        case _:
            canvas.ellipse((x, y - 0.022), (wide * 1.75, 0.02), shaded(colour, 0.9))
