"""Procedural pedestrians: a small re-identification data set that every machine can generate."""

from data.synthetic.dataset import cached_synthetic, make_synthetic
from data.synthetic.options import SyntheticOptions

__all__ = ["SyntheticOptions", "cached_synthetic", "make_synthetic"]
