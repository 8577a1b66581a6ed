"""Graphs of aten operations, which the tracer makes and the back ends compile."""
