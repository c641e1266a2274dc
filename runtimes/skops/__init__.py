"""Estimators of scikit-learn in skops files."""
