"""Pyro's handlers as functions: they return a changed program or, without a program, a `with` block or decorator.

conditioned = poutine.condition(model, data={"z": z})
with poutine.mask(mask=observed): ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from queue import Queue
from typing import Any, NoReturn

from varigrad.compat.pyro.plates import markov as markov
from varigrad.compat.pyro.poutine.block_messenger import BlockMessenger
from varigrad.compat.pyro.poutine.broadcast_messenger import BroadcastMessenger
from varigrad.compat.pyro.poutine.condition_messenger import ConditionMessenger
from varigrad.compat.pyro.poutine.do_messenger import DoMessenger
from varigrad.compat.pyro.poutine.enum_messenger import EnumMessenger
from varigrad.compat.pyro.poutine.escape_messenger import EscapeMessenger
from varigrad.compat.pyro.poutine.infer_config_messenger import InferConfigMessenger
from varigrad.compat.pyro.poutine.lift_messenger import LiftMessenger
from varigrad.compat.pyro.poutine.mask_messenger import MaskMessenger
from varigrad.compat.pyro.poutine.messages import Dictionary
from varigrad.compat.pyro.poutine.messenger import Messenger
from varigrad.compat.pyro.poutine.reparam_messenger import ReparamMessenger
from varigrad.compat.pyro.poutine.replay_messenger import ReplayMessenger
from varigrad.compat.pyro.poutine.runtime import NonlocalExit
from varigrad.compat.pyro.poutine.scale_messenger import ScaleMessenger
from varigrad.compat.pyro.poutine.seed_messenger import SeedMessenger
from varigrad.compat.pyro.poutine.substitute_messenger import SubstituteMessenger
from varigrad.compat.pyro.poutine.trace_messenger import TraceMessenger
from varigrad.compat.pyro.poutine.trace_struct import Trace
from varigrad.compat.pyro.poutine.uncondition_messenger import UnconditionMessenger
from varigrad.compat.pyro.poutine.util import discrete_escape, enum_extend
from varigrad.language.messages import Program


def _handler(kind: type[Messenger]) -> Callable[..., Any]:
    @functools.wraps(kind.__init__)
    def make(fn: Program | None = None, *args: object, **kwargs: object) -> Any:
        if fn is not None and not callable(fn):
            raise ValueError(f"{fn!r} is not callable, did you mean to pass it as a keyword argument?")
        messenger = kind(*args, **kwargs)
        return messenger if fn is None else messenger(fn)

    make.__doc__ = kind.__doc__
    make.__name__ = make.__qualname__ = kind.__name__.removesuffix("Messenger").lower()
    del make.__wrapped__  # its signature has no `fn`
    return make


block: Callable[..., Any] = _handler(BlockMessenger)
broadcast: Callable[..., Any] = _handler(BroadcastMessenger)
condition: Callable[..., Any] = _handler(ConditionMessenger)
do: Callable[..., Any] = _handler(DoMessenger)
enum: Callable[..., Any] = _handler(EnumMessenger)
escape: Callable[..., Any] = _handler(EscapeMessenger)
infer_config: Callable[..., Any] = _handler(InferConfigMessenger)
lift: Callable[..., Any] = _handler(LiftMessenger)
mask: Callable[..., Any] = _handler(MaskMessenger)
reparam: Callable[..., Any] = _handler(ReparamMessenger)
replay: Callable[..., Any] = _handler(ReplayMessenger)
scale: Callable[..., Any] = _handler(ScaleMessenger)
seed: Callable[..., Any] = _handler(SeedMessenger)
substitute: Callable[..., Any] = _handler(SubstituteMessenger)
trace: Callable[..., Any] = _handler(TraceMessenger)
uncondition: Callable[..., Any] = _handler(UnconditionMessenger)


def queue(
    fn: Program | None = None,
    queue: Queue[Trace] | None = None,
    max_tries: int | None = None,
    extend_fn: Callable[[Trace, Dictionary, int | None], Iterable[Trace]] | None = None,
    escape_fn: Callable[[Trace, Dictionary], bool] | None = None,
    num_samples: int | None = None,
) -> Program:
    """Every run takes an unfinished trace from the queue and goes on from it; where it meets a new discrete site, the
    trace's extensions by each of its values are put into the queue, and one of them is taken.

    Raises:
        ValueError: no run was finished in `max_tries` tries.
    """
    if fn is None:
        return functools.partial(
            globals()["queue"], queue=queue, max_tries=max_tries, extend_fn=extend_fn, escape_fn=escape_fn,
            num_samples=num_samples,
        )  # fmt: skip
    tries = int(1e6) if max_tries is None else max_tries
    extend = enum_extend if extend_fn is None else extend_fn
    escapes = discrete_escape if escape_fn is None else escape_fn
    assert queue is not None

    def run(*args: object, **kwargs: object) -> object:
        for _ in range(tries):
            begun = queue.get()
            try:
                inner = replay(fn, trace=begun)
                return trace(escape(inner, escape_fn=functools.partial(escapes, begun)))(*args, **kwargs)
            except NonlocalExit as left:
                left.reset_stack()
                for extended in extend(begun.copy(), left.site, num_samples):
                    queue.put(extended)
        raise ValueError(f"max tries ({tries}) exceeded")

    return run


def collapse(*args: object, **kwargs: object) -> NoReturn:
    """Not there: exact sums over conjugate sites.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        "poutine.collapse is not there. Try: the marginal distribution (BetaBinomial, ...) by hand"
    )


def equalize(*args: object, **kwargs: object) -> NoReturn:
    """Not there: sites made to have one value.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("poutine.equalize is not there. Try: one sample statement, whose value both places use")
