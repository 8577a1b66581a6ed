"""Gradients of bounds for comparison: exact ones by enumeration, and moments over many draws."""
