"""Pyro's names."""
