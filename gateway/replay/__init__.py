"""Recorded calls, sent to a kit that may take over: judged as a canary is, with nobody's calls at stake."""
