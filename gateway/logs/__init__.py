"""Events with fields, as JSON lines in one file for all processes of a node."""
