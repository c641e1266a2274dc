"""Directories of Hugging Face's: what is in them, read without transformers."""
