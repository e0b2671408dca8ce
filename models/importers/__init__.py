"""Checkpoints of other frameworks as ours: names, tensors, and the params that compute the same."""
