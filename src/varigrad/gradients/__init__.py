"""Gradients as numbers to compare: exact by enumeration, or moments of many draws."""
