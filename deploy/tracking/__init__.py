"""Following persons through a video by where they are and by what they look like."""

from deploy.tracking.boxes import crop
from deploy.tracking.tracker import Tracker

__all__ = ["Tracker", "crop"]
