"""A picture of a synthetic (or any Market-1501) folder to look at: persons in rows, cameras in columns."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from data.synthetic.canvas import HEIGHT, WIDTH
from data.synthetic.plan import TRAIN

_GAP = 4


def contact_sheet(
    folder: Path, out_png: Path, identities: Sequence[int], split: str = TRAIN, cameras: int = 6, zoom: int = 2
) -> Path:
    """Writes one image of each person from each camera; a camera that did not see the person stays blank.

    Args:
        folder: Data set in the Market-1501 layout.
        out_png: Picture to write.
        identities: Pids, one per row.
        split: Sub-folder to take the images from.
        cameras: Number of columns.
        zoom: Magnification.
    """
    width, height = WIDTH * zoom, HEIGHT * zoom
    size = (cameras * (width + _GAP) + _GAP, len(identities) * (height + _GAP) + _GAP)
    sheet = Image.new("RGB", size, (246, 244, 240))
    for row, pid in enumerate(identities):
        for column in range(cameras):
            found = sorted((folder / split).glob(f"{pid:04d}_c{column + 1}s*.jpg"))
            if found:
                with Image.open(found[0]) as image:
                    tile = image.resize((width, height), Image.Resampling.LANCZOS)
                sheet.paste(tile, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    sheet.save(out_png)
    return out_png
