"""The C back end: compiles a graph of aten operations to one C program."""
