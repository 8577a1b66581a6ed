"""`Reparam`: interface of reparametrisers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn

from varigrad.compat.pyro.poutine.messages import Dictionary
from varigrad.language.messages import Program


class Reparam(ABC):
    """Interface of reparametrisers: they draw other sites, and compute the site's value from them."""

    @abstractmethod
    def apply(self, msg: Dictionary) -> Dictionary:
        """Make the new sites; returns a message with the "value" of this one.

        Args:
            msg: the site's `name`, `fn`, `value`, `is_observed` and `infer`.
        """

    def __call__(self, fn: Program) -> NoReturn:
        """Not there.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a reparametriser is given to poutine.reparam(model, config={name: reparametriser})")
