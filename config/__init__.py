"""Params files: what may stand in them, what they become, and what is said about their mistakes."""
