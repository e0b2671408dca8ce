"""Audit of a training set: copies, leaks, wrong labels, odd cameras and poor crops, with a suggested fix for each."""
