"""Holds the calls of versions that sleep, and wakes these."""
