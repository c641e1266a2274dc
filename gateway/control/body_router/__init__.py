"""Reads the bodies that are too long for the edge's buffer, for the model that they name."""
