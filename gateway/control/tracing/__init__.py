"""Spans of edge and workers on their way to a collector."""
