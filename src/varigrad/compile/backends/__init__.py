"""Back ends: compile a graph to a library that can be called. They import from `compile/graph` only."""
