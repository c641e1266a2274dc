"""What the gateway remembers, sees and tells."""
