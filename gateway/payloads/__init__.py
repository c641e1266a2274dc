"""The values of the payload log: what is recorded of calls, what is left out, and how it is written."""
