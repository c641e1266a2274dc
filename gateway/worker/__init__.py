"""One Serve replica that runs one kit version behind its own HTTP server."""
