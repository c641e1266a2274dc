"""Kitserve: a Ray Serve gateway that runs ModelKits."""

__version__ = "0.1.0"
