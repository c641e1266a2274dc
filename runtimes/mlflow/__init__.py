"""Directories of MLflow: which file of one is the model, and what its `MLmodel` says of that."""
