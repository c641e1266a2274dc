"""How fast Kitserve is, beside the least a Python server can do and beside plain Ray Serve."""
