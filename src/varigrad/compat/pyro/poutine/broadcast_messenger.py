"""Expanding sites to their plates, which ours do anyway."""

from __future__ import annotations

from varigrad.compat.pyro.poutine.messenger import Messenger


class BroadcastMessenger(Messenger):
    """Does nothing: every site is expanded to the plates around it."""
