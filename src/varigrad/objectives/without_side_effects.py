"""Runs programs without side effects: restores everything that they draw, write or switch.

The numbers of parameters and buffers are never overwritten and copied back. Each tensor gets other memory during the
runs (`tensor.data = copy`), and its own memory again afterwards. So views, strides, version counters of parameters, and
graphs that other code still holds are unchanged, bit for bit.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from varigrad._torch_internals import own_buffers, own_parameters
from varigrad.distributions.rng import Source, global_state, set_global_state
from varigrad.objectives.estimator_states import EstimatorStates
from varigrad.objectives.reachable_state import Generator, ReachableState

T = TypeVar("T")

LARGEST = 2**20
"""Elements of a tensor outside of modules up to which it gets other memory; larger ones are taken to be data."""


class _Generators(NamedTuple):
    """The states of all random generators."""

    torch: Any
    python: Any
    numpy: Any
    own: list[Any]


class PreservedState:
    """The state that runs of some programs may change; `restore` puts it back.

    Args:
        reached: what the programs refer to; modules that they call besides are added when they are called.
        parameters: unconstrained tensors that are in no module.
    """

    def __init__(self, reached: ReachableState, parameters: Iterable[Tensor] = ()) -> None:
        self.reached = reached
        self._thread = threading.get_ident()
        self._states = _states_of(reached.generators.values())
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}
        self._flags: dict[int, tuple[Tensor, bool, Tensor | None]] = {}
        self._modules: dict[int, tuple[nn.Module, bool, dict[str, Tensor | None], dict[str, Any]]] = {}
        self._given = list(parameters)

    def know(self, parameters: Iterable[Tensor]) -> None:
        """Preserve these parameters, too."""
        for parameter in parameters:
            self._note(parameter)

    def lend(self) -> None:
        """Give everything found so far separate memory."""
        self.know(self._given)
        for module in list(self.reached.modules.values()):
            self.lend_module(module)
        for tensor in self.reached.tensors.values():
            if tensor.requires_grad:
                self._note(tensor)
            elif tensor.numel() <= LARGEST:
                self._copy(tensor)

    def lend_module(self, module: nn.Module) -> None:
        """Preserve a module that has come to light, and those inside it."""
        for inner in module.modules():
            if id(inner) not in self._modules and not isinstance(inner, EstimatorStates):
                self.reached.modules[id(inner)] = inner
                buffers, parameters = dict(own_buffers(inner)), dict(own_parameters(inner))
                self._modules[id(inner)] = inner, inner.training, buffers, parameters
                for buffer in buffers.values():
                    if buffer is not None:
                        self._copy(buffer)
                for parameter in parameters.values():
                    if parameter is not None:
                        self._note(parameter)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters known so far."""
        return [tensor for tensor, _, _ in self._flags.values()]

    @property
    def buffers(self) -> list[Tensor]:
        """The buffers of all modules known so far."""
        found = [b for _, _, buffers, _ in self._modules.values() for b in buffers.values()]
        return [b for b in found if b is not None and id(b) in self._memory]

    def original(self, tensor: Tensor) -> Tensor:
        """A tensor's own numbers, whatever it shows now."""
        known = self._memory.get(id(tensor))
        return tensor.data if known is None else known[1]

    def show(self, tensor: Tensor, numbers: Tensor) -> None:
        """Give a tensor other numbers until everything is put back."""
        self._memory.setdefault(id(tensor), (tensor, tensor.data))
        tensor.data = numbers

    def restore(self) -> None:
        """Put everything back; may be called again after it was interrupted."""
        for module, training, buffers, parameters in self._modules.values():
            module.training = training
            for now, before in ((own_buffers(module), buffers), (own_parameters(module), parameters)):
                entries = dict(now.items())  # of a scripted module, `now` is no dictionary
                if any(entries.get(key) is not value for key, value in before.items()):
                    _put_back(now, before)
                for key in entries.keys() - before.keys() if before is buffers else ():
                    del now[key]
        with torch.inference_mode(False):
            for tensor, data in self._memory.values():
                tensor.data = data
        for tensor, requires_grad, grad in self._flags.values():
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)
                tensor.grad = grad
        self.restore_generators()

    def restore_generators(self) -> None:
        """All generators go back to where they were."""
        _go_back(self._states, self.reached.generators.values())

    @contextmanager
    def lasting(self) -> Iterator[None]:
        """Inside, what is drawn or registered stays: generators start where they will be when all is put back.

        For initial values: they are kept, so their draws have been made.
        """
        own = list(self.reached.generators.values())
        inside = _states_of(own)
        registered = [
            (now, buffers, set(now.keys())) for m, _, buffers, _ in self._modules.values() for now in [own_buffers(m)]
        ]
        _go_back(self._states, own)
        try:
            yield
        finally:
            self._states = _states_of(own)
            _go_back(inside, own)
            for now, before, names in registered:
                before.update({key: value for key, value in now.items() if key not in names})

    def called(self, module: nn.Module, _: object) -> None:
        """Preserve a module that is about to be called; a forward pre-hook of torch."""
        if threading.get_ident() == self._thread and id(module) not in self._modules:
            self.lend_module(module)

    def _note(self, parameter: Tensor) -> None:
        if id(parameter) not in self._flags and not is_lazy(parameter):
            self._flags[id(parameter)] = (
                parameter,
                parameter.requires_grad,
                parameter.grad if parameter.is_leaf else None,
            )
            if parameter.is_leaf:
                parameter.grad = None

    def _copy(self, tensor: Tensor) -> None:
        if id(tensor) in self._memory or is_lazy(tensor) or tensor.layout is not torch.strided:
            return
        if not tensor.is_inference():
            with torch.inference_mode(False):
                self.show(tensor, tensor.data.clone())


@contextmanager
def preserving_programs(
    reached: ReachableState, parameters: Iterable[Tensor] = (), seed: int | None = None
) -> Iterator[PreservedState]:
    """Inside, programs may be run; afterwards everything is as it was.

    Put back are parameters, their `.grad` and `requires_grad`; buffers and modes of modules; small tensors in closures;
    the generators of torch, numpy and Python, and those that the programs refer to.

    Args:
        reached: what the programs refer to.
        parameters: unconstrained tensors that are in no module.
        seed: what torch's global generators start from inside; None: they go on from where they are.
    """
    kept = PreservedState(reached, parameters)
    hook = register_module_forward_pre_hook(kept.called)
    try:
        kept.lend()
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if torch.cuda.is_initialized():
                torch.cuda.manual_seed_all(seed)
        yield kept
    finally:
        hook.remove()
        _in_spite_of_interrupts(kept.restore)


def seed_beside(source: Source, *numbers: int) -> int:
    """A seed that depends on where a source started and on some numbers; the source does not notice."""
    generator = source.generator
    start = torch.initial_seed() if generator is None else generator.initial_seed()
    digest = hashlib.sha256(repr((start, numbers)).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def _in_spite_of_interrupts(restore: Callable[[], None]) -> None:
    """Call a function until it has come to its end; Ctrl-C is passed on after that."""
    interrupted = False
    while True:
        try:
            restore()
            break
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def _put_back(now: MutableMapping[str, T], before: Mapping[str, T]) -> None:
    for key, value in before.items():
        now[key] = value


def _states_of(generators: Iterable[Generator]) -> _Generators:
    return _Generators(global_state(), random.getstate(), np.random.get_state(), [_state(g) for g in generators])


def _go_back(states: _Generators, generators: Iterable[Generator]) -> None:
    set_global_state(states.torch)
    random.setstate(states.python)
    np.random.set_state(states.numpy)
    for generator, state in zip(generators, states.own, strict=False):
        if isinstance(generator, random.Random):
            generator.setstate(state)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        else:
            generator.set_state(state)


def _state(generator: Generator) -> object:
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()
