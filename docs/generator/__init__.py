"""Writes the parts of the documentation that repeat what the code says; not shipped."""
