"""Compiled steps of an `SVI`: decided, specialised by signature, run on flat state."""
