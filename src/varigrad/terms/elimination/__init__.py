"""Sums of products of log-density tables over discrete choices, by variable elimination inside plates."""
