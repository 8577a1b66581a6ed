"""Back ends: from a graph to a library that can be called. They see `compile/graph` only."""
