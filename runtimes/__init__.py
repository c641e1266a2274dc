"""Model formats to tensors. Knows nothing of kits, OCI, Ray or HTTP."""
