"""The calls that the edge sends to the gateway: the model repository, documents, and gRPC services."""
