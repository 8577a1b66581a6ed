"""Families for tests of gradients: twins without `rsample`, and a Gamma by rejection."""
