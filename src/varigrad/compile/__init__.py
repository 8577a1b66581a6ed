"""Compiled steps: traces a step to a graph, has a back end compile it, and checks the results against Python's."""
