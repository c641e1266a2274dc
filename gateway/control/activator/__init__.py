"""Holds the calls to versions that sleep, and wakes these versions."""
