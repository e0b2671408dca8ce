"""Augmentation of whole batches on the device: every image has its own crop, mirror, colours and rectangle.

`sample` draws the random numbers of a batch as `AugmentParams`, plain tensors of which several processes take parts;
`augment` applies them. Each step of `augment` is a pure function of images and numbers per image. Images are
(B, 3, H, W) in channels-last: uint8, then in 0..1 while their colours change, normalised at the end.
"""
