"""Between messages and calls on a model: JSON, binary tensors, gRPC."""
