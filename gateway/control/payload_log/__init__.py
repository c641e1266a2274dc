"""The payload log: records of calls, from workers to files."""
