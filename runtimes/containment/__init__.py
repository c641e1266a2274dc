"""What a process gives up before it reads a kit: privileges, system calls, files, signals, core dumps.

All of it is of Linux's kernel, asked by system calls: the child of a kit's Python has no library but its own.
"""
