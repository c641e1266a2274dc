"""Models of transformers that take texts or images and give tensors, computed in this process."""
