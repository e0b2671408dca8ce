"""Embeddings of images, kept on the disk, and the search for the nearest of them."""
