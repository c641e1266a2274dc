"""What `make` runs besides tests and load: it is neither shipped nor imported by what is."""
