"""Procedural pedestrians: a small re-identification data set that every machine can make for itself."""

from data.synthetic.dataset import cached_synthetic, make_synthetic
from data.synthetic.options import SyntheticOptions
from data.synthetic.sheet import contact_sheet

__all__ = ["SyntheticOptions", "cached_synthetic", "contact_sheet", "make_synthetic"]
