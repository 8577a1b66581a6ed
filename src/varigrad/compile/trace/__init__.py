"""Tracing: records a function of tensors as a graph, with guards on the Python values that it read."""
