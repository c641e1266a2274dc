"""Python of a kit: a class of its own, in a child process with an environment of its own."""
