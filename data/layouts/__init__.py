"""Layouts: how the files of a data set name identities and cameras.

A layout is a file in this package: a function that reads a folder into a `Dataset`, and a `Layout` that recognises and
describes such a folder. `data/layouts/registry.py` lists them.
"""

from data.layouts.registry import LayoutChoice, describe_layouts, detect_layout, read_layout

__all__ = ["LayoutChoice", "describe_layouts", "detect_layout", "read_layout"]
