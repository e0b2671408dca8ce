"""Sizes that follow from the network's strides and shares."""


def feature_map_size(img_h: int, img_w: int, last_conv_stride: int) -> tuple[int, int]:
    """Height and width of a ResNet's last feature map.

    Args:
        img_h: height of the image, pixels.
        img_w: width of the image, pixels.
        last_conv_stride: 1 or 2, the stride of the last stage.

    Returns:
        Rows and columns. Each of the four or five halvings pads and rounds up, so one division does for all.
    """
    stride = 16 * last_conv_stride
    return -(-img_h // stride), -(-img_w // stride)


def band_rows(rows: int, share: float) -> int:
    """Rows of a band that feature erasing sets to zero: `share` of `rows`, to the nearest whole number.

    Args:
        rows: of the stripe or map that the band lies in.
        share: 0 to 1.

    Returns:
        0 and `rows` are possible; with them nothing or everything would be erased, so params with them are refused.
    """
    return round(share * rows)
