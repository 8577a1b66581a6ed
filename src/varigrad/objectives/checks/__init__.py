"""Checks of programs: single sites, pairs of sites, first runs, plates, untrained leaves; and when to repeat them."""
