"""Layouts: how a folder of images tells who is who.

A layout is a file in this package: a function that reads a folder into a Dataset, and a `Layout` that says how such a
folder is recognised and described. `data/layouts/registry.py` lists them.
"""

from data.layouts.registry import LayoutChoice, describe_layouts, detect_layout, read_layout

__all__ = ["LayoutChoice", "describe_layouts", "detect_layout", "read_layout"]
