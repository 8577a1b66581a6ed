"""Warns of networks a program uses but never registers: Pyro does not train them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from varigrad.compat.pyro.primitives import get_param_store
from varigrad.objectives.bound import Bound
from varigrad.objectives.checks.untrained_leaves import LookSchedule, UntrainedLeaf, untrained_leaves
from varigrad.user_warnings import warn_user


class Unregistered:
    """Warns, once each, of tensors that a step's gradient reaches and that the parameter store lacks.

    Natively this is an error. Pyro lets such programs run, and leaves the gradient in `.grad`, where an optimiser of
    the program's own may use it.
    """

    def __init__(self) -> None:
        self._when = LookSchedule()
        self._told: set[int] = set()

    def look(self, bound: Bound, surrogate: Tensor, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """To be called once a step."""
        if not self._when.due(surrogate):
            return
        known = get_param_store().named_parameters()
        found = untrained_leaves(bound, surrogate, lambda: {id(p) for _, p in known} | self._told, args, kwargs)
        self._told.update(id(stranger.leaf) for stranger in found)
        for text in dict.fromkeys(map(_text, found)):
            warn_user(text)


def _text(stranger: UntrainedLeaf) -> str:
    sight = stranger.sight
    if sight is None or sight.module is None:
        what = f"a tensor of shape {tuple(stranger.leaf.shape)}" if sight is None else repr(sight.name)
        advice = "pyro.param(name, init) for what is to be learnt, .detach() for the rest"
    else:
        what = f"the module {sight.module_name!r}"
        advice = (
            f"pyro.module(name, {sight.module_name}) in the program, or requires_grad_(False) if it is to stay as it is"
        )
    return (
        f"{what} requires a gradient and influences the loss, and is not in the parameter store: SVI does not train "
        f"it. Try: {advice}"
    )
