"""How fast Kitserve is, beside the floor, other model servers and plain Ray Serve."""
