"""Gradients as numbers to compare: exact ones by enumeration, and moments of many draws."""
