"""What other programs feed an exported model and read from it: one file each, listed in `registry.py`."""
