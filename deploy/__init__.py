"""A trained network at work outside of training: exported, predicting, searching, serving."""
