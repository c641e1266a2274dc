"""The reconcile loop, and Ray Serve, which it drives."""
