"""Spans of single calls, as the processes of Kitserve hand them to each other; nothing here sends them."""
