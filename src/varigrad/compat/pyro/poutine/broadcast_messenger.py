"""`broadcast`: a handler without effect, since varigrad always expands sites to their plates."""

from __future__ import annotations

from varigrad.compat.pyro.poutine.messenger import Messenger


class BroadcastMessenger(Messenger):
    """A handler without effect: varigrad always expands sites to the plates around them."""
