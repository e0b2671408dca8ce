"""Short programs that use a trained model, to copy and to change."""
