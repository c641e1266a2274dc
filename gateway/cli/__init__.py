"""The command line: what a person types, and what they see.

`__main__` begins; `main` puts the commands together: those of `serve`, `models` (apply, status), `kits`
(inspect, pull), `cache` and `rollout`. What people read is written by `tables` and `progress`. Nothing is
imported here, so that `__main__` handles signals before the slow imports begin.
"""
