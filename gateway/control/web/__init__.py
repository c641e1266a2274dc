"""The gateway's HTTP server, which answers for the admin API and for the front."""
