"""Bounds of kits that a config keeps as well."""

MAX_PARENTS = 10
"""How many parents a kit may have in a chain (KitOps: MaxModelRefChain)."""
