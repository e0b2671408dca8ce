"""Procedural pedestrians: a small re-identification data set that every machine can generate."""
