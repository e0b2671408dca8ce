"""Images by index, as uint8 batches: decoded when asked for, or once and kept in memory or on the device."""

from data.store.build import DataCache, build_store
from data.store.stores import DeviceStore, FileStore, ImageStore, RamStore

__all__ = ["DataCache", "DeviceStore", "FileStore", "ImageStore", "RamStore", "build_store"]
