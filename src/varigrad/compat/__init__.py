"""Compatibility layers: other libraries' names on top of varigrad's. Modules outside of `compat` never import them."""
