"""The command line: what a person types, and what they see.

`__main__` begins; `main` names the commands, each of which is imported when it is called (`lazy`). Most have
a module of their own name; `kits` has inspect and pull, `validate` also schema. What people read is written
by `tables` and `progress`. Nothing is imported here, so that `__main__` handles signals before the slow
imports begin.
"""
