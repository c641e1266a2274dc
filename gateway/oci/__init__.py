"""OCI artefacts in registries and on disk. Knows nothing of models."""
