"""The operators that programs for PyTorch may have: the list, and the rule that makes it."""
