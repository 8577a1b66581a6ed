"""Graphs of aten operations, as the tracer makes them and back ends read them."""
