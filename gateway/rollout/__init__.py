"""The way from one version of a model to the next. Pure: no clock, no I/O, no randomness."""
