"""Augmentation of whole batches on the device: every image draws its own crop, mirror, colours and rectangle.

`draw` decides, `augment` does; in between lies a `Draws` of plain tensors, of which several processes take parts. Each
step of `augment` is a pure function of images and per-image numbers. Images are (B, 3, H, W) in channels-last: uint8,
in 0..1 while their colours change, normalised at the end.
"""
