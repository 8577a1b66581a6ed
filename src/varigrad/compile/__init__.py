"""Compiled steps: a step traced to a graph, compiled by a back end, and checked against Python's."""
