"""Decoded images by index: decoded on each request, or once and kept in memory or on the device.

Other packages import from here.
"""

from data.cache.build import DataCache, build_store
from data.cache.decoded import DecodedImageCache, build_image_cache
from data.cache.stores import DeviceStore, FileStore, ImageStore, RamStore, stack_images

__all__ = [
    "DataCache",
    "DecodedImageCache",
    "DeviceStore",
    "FileStore",
    "ImageStore",
    "RamStore",
    "build_image_cache",
    "build_store",
    "stack_images",
]
