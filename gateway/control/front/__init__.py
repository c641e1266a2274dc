"""What the edge asks the gateway: the model repository, documents, and gRPC services."""
