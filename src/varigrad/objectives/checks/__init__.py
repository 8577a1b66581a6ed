"""Checks of programs: sites, pairs of sites, first runs, plates, leaves; and when they are made again."""
