"""Models in OpenVINO's intermediate representation (IR)."""
