"""Tracing: from a function of tensors to a graph, with guards on what it read from Python."""
