"""What an artefact means: manifest, Kitfile, and the way to an unpacked directory."""
