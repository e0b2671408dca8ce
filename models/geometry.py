"""Sizes of feature maps and of erased bands."""


def feature_map_size(img_h: int, img_w: int, stride: int) -> tuple[int, int]:
    """Rows and columns of a backbone's feature map for an image of img_h x img_w pixels.

    Each halving pads and rounds up, so one division by the backbone's stride does for all.
    """
    return -(-img_h // stride), -(-img_w // stride)


def band_rows(rows: int, share: float) -> int:
    """Rows of a band that feature erasing sets to zero: a share of the `rows` of a stripe or map, rounded.

    Params with which it would be none or all of the rows are refused.
    """
    return round(share * rows)
