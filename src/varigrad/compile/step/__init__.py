"""Compiled steps of an `SVI`: specialised by the arguments' signature, and run on flat tensors of state."""
