"""A compiler from graphs of aten operations to one C program."""
