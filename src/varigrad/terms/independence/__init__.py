"""Proofs from a run's operations that elements of a plate, or lanes, do not influence each other."""
