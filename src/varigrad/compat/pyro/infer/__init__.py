"""Objectives and SVI under Pyro's names."""
