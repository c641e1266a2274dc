"""Calls as people write them: rows, CSV, images and NumPy's files become tensors, outputs predictions."""
