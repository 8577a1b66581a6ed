"""Twins of families for tests."""
