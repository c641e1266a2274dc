"""Pickles: what they would import, found without running them."""
