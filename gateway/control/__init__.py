"""Desired state to running state: a tick that reads, decides, acts, writes and returns."""
