"""Pickles: what they import, found without running them, and the loading of known ones."""
