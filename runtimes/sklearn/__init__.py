"""Estimators of scikit-learn, and of libraries with its interface, from joblib files and pickles."""
