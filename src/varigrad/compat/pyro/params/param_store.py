"""The parameter store: a dictionary of constrained values over the unconstrained tensors that optimisers update.

The store is Pyro's one global object. It implements the engine's interface for owners of parameters
(`varigrad.objectives.parameters.ParameterStore`), and each of Pyro's objectives gets it as an argument.
"""

from __future__ import annotations

import os
import re
import warnings
import weakref
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, MutableMapping
from contextlib import contextmanager
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from varigrad.compat.pyro.params.names import param_with_module_name
from varigrad.errors import ParameterError
from varigrad.language.messages import Module, Param, evolve
from varigrad.language.parameter_transforms import initial_value, to_constrained, unconstrain

Init = Tensor | float | Callable[[], Tensor] | None


class UnknownParameterError(ParameterError, KeyError):
    """A parameter without an initial value was never declared."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class StateDict(TypedDict):
    """What `get_state` returns: the unconstrained tensors (live, not copied) and their constraints."""

    params: dict[str, Tensor]
    constraints: dict[str, constraints.Constraint]


class ParamStoreDict(MutableMapping[str, Tensor]):
    """`name -> constrained value`, differentiable; every value's `unconstrained()` is the leaf behind it.

    A name that is in the store keeps its value: later initial values are ignored.
    """

    def __init__(self) -> None:
        self._params: dict[str, Tensor] = {}
        self._constraints: dict[str, constraints.Constraint] = {}
        self._transforms: dict[str, Transform | None] = {}
        self._names: dict[int, str] = {}
        self.asked: dict[str, None] = {}
        """Names of the parameters that the engine has asked for, networks of baselines included; see `Asking`."""
        self.registered: weakref.WeakValueDictionary[str, nn.Module] = weakref.WeakValueDictionary()
        """Modules whose parameters the statement `pyro.module` enters by itself."""
        self.version: int = 0
        self.generation: int = 0
        """How often the store was emptied or its contents replaced: averages of earlier contents mean nothing then."""

    # As a dictionary

    def __getitem__(self, name: str) -> Tensor:
        leaf = self._params[name]
        transform = self._transforms[name]
        if transform is None:
            return leaf
        value: Tensor = transform(leaf)
        value.unconstrained = _Unconstrained(leaf)  # type: ignore[attr-defined]
        return value

    def __setitem__(self, name: str, new_constrained_value: Tensor) -> None:
        constraint = self._constraints.get(name, constraints.real)
        self._put(name, unconstrain(new_constrained_value.detach(), constraint, name), constraint)

    def __delitem__(self, name: str) -> None:
        self._names.pop(id(self._params.pop(name)), None)
        del self._constraints[name], self._transforms[name]
        self.version += 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)

    def __contains__(self, name: object) -> bool:
        return name in self._params

    def keys(self) -> KeysView[str]:
        """The names, in the order of declaration."""
        return self._params.keys()

    def setdefault(
        self,
        name: str,
        init_constrained_value: Init = None,
        constraint: constraints.Constraint = constraints.real,
    ) -> Tensor:
        """The constrained value; declared with the given one if it is not in the store.

        Raises:
            UnknownParameterError: there is neither a stored nor an initial value.
            ParameterError: the initial value is no real floating-point tensor.
            ConstraintError: it is outside its constraint, or on the edge of it.
        """
        return self.fetch(Param(name, init_constrained_value, constraint, None))

    def clear(self) -> None:
        """Forget all parameters and their constraints."""
        for entries in (self._params, self._constraints, self._transforms, self._names):
            entries.clear()
        self.version += 1
        self.generation += 1

    # As Pyro's programs use it besides

    def named_parameters(self) -> ItemsView[str, Tensor]:
        """`(name, unconstrained tensor)` pairs."""
        return self._params.items()

    def get_all_param_names(self) -> KeysView[str]:
        """The names of all parameters."""
        return self.keys()

    def get_param(
        self,
        name: str,
        init_tensor: Init = None,
        constraint: constraints.Constraint = constraints.real,
        event_dim: int | None = None,
    ) -> Tensor:
        """`setdefault`, under an older name."""
        return self[name] if init_tensor is None else self.setdefault(name, init_tensor, constraint)

    def replace_param(self, param_name: str, new_param: Tensor, old_param: Tensor) -> None:
        """Put another constrained value in the place of a parameter's."""
        if self.param_name(getattr(old_param, "unconstrained", lambda: old_param)()) != param_name:
            raise ParameterError("is not the name of the parameter to be replaced", site=param_name)
        self[param_name] = new_param

    def match(self, name: str) -> dict[str, Tensor]:
        """The parameters whose names match a regular expression, from their start."""
        pattern = re.compile(name)
        return {key: self[key] for key in self if pattern.match(key)}

    def param_name(self, p: Tensor) -> str | None:
        """The name of an unconstrained tensor; None if it is not in the store."""
        return self._names.get(id(p))

    def get_state(self) -> StateDict:
        """The unconstrained tensors themselves, and their constraints."""
        return {"params": dict(self._params), "constraints": dict(self._constraints)}

    def set_state(self, state: StateDict) -> None:
        """Take the place of what is there: tensors with gradients are used as they are, others made to have them."""
        if not isinstance(state, dict) or set(state) != {"params", "constraints"}:
            raise ParameterError("a state has the entries 'params' and 'constraints'", try_="store.get_state()")
        self.clear()
        for name, leaf in state["params"].items():
            self._put(name, leaf if leaf.requires_grad else leaf.detach(), state["constraints"][name])

    @contextmanager
    def scope(self, state: StateDict | None = None) -> Iterator[StateDict]:
        """A `with` block in which the store holds `state` (default: nothing); what was there before comes back.

        Yields:
            A dictionary that holds the block's state once the block is left, to be handed to another `scope`.
        """
        inner: StateDict = {"params": {}, "constraints": {}} if state is None else state
        outer = self.get_state()
        try:
            self.set_state(inner)
            yield inner
            inner.update(self.get_state())
        finally:
            self.set_state(outer)

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write all parameters to a file."""
        state = {"params": {n: p.detach() for n, p in self._params.items()}, "constraints": dict(self._constraints)}
        torch.save(state, filename)

    def load(self, filename: str | os.PathLike[str], map_location: Any = None, weights_only: bool = True) -> None:
        """Replace the contents by a file's, one of Pyro's own included; the file cannot run code.

        Modules take over what was loaded at `pyro.module(name, net, update_module_params=True)`.

        Args:
            weights_only: False lets the file run code, for constraints of classes that are not torch's or ours.
        """
        with torch.serialization.safe_globals(_constraint_classes(constraints.Constraint)):
            state = torch.load(filename, map_location, weights_only=weights_only)
        self.set_state(state)

    # As the engine uses it: an owner of parameters

    def constrained(self, message: Param, cache: dict[str, Tensor]) -> Tensor:
        """The constrained value of a parameter, declared the first time; `cache` lasts one step."""
        name = message.name
        value = cache.get(name)
        if value is None:
            value = cache[name] = self.fetch(message)
            self.asked[name] = None
        return value

    def adopt(self, message: Module) -> None:
        """The parameters of a module, as `module$$$parameter`."""
        if self.registered.get(message.name) is message.value:
            return  # `pyro.module` has just done so
        for key, parameter in message.value.named_parameters():
            if parameter.requires_grad:
                name = param_with_module_name(message.name, key)
                self.hold(name, parameter)
                self.asked[name] = None

    def adopt_baseline(self, site: str, part: str, module: nn.Module) -> None:
        """A baseline's network: its parameters have to be in the store to be trained."""
        mine = [(n, p) for n, p in module.named_parameters() if p.requires_grad and self.param_name(p) is None]
        if mine:
            warnings.warn(
                f"{site!r}: the network of its baseline is not registered. Its parameters are trained under the name "
                f"{f'{site}_baseline'!r}. Try: pyro.module('my_baseline', network) in the guide",
                stacklevel=2,
            )
        for name, parameter in mine:
            self.hold(f"{site}_baseline$$${'.'.join(p for p in (part, name) if p)}", parameter)
        for parameter in module.parameters():
            known = self.param_name(parameter)
            if known is not None:
                self.asked[known] = None

    def check_names(self, sites: Iterable[str]) -> None:
        """Sites and parameters have names of their own."""

    def constrained_leaves(self) -> dict[str, Tensor]:
        """The constrained value of every parameter, by name."""
        return dict(self)

    def aside(self) -> ParamStoreDict:
        """A store with the same entries, for runs that leave nothing behind: what is declared there is forgotten."""
        return _Aside(self)

    def fetch(self, message: Param) -> Tensor:
        """As `setdefault`, for a message."""
        self._declare(message)
        return self[message.name]

    def hold(self, name: str, leaf: Tensor, constraint: constraints.Constraint = constraints.real) -> None:
        """Make a module's own (unconstrained) tensor an entry of the store, unless there is one of that name."""
        if name not in self._params:
            self._put(name, leaf, constraint)

    def as_parameter(self, name: str) -> nn.Parameter:
        """The unconstrained tensor of an entry, as a module can have it."""
        leaf = self._params[name]
        if not isinstance(leaf, nn.Parameter):
            self._put(name, nn.Parameter(leaf.detach()), self._constraints[name])
        return self._params[name]  # type: ignore[return-value]

    def _declare(self, message: Param) -> None:
        known = self._params.get(message.name)
        if known is not None:
            if isinstance(message.init, Tensor) and self._transforms[message.name] is None:
                _compare(message.name, known, message.init)
            return
        if message.init is None:
            raise UnknownParameterError(
                "has no initial value and is not in the parameter store",
                site=message.name,
                try_="pyro.param(name, init_tensor), or a step of inference before",
            )
        message = as_taken(message)
        value, init = initial_value(message), message.init
        if isinstance(init, Tensor) and init.requires_grad and init.is_leaf and message.constraint is constraints.real:
            leaf = init  # a parameter of the program's own, which it may go on to use directly
        else:
            leaf = unconstrain(value, message.constraint, message.name)
        self._put(message.name, leaf, message.constraint)

    def _put(self, name: str, leaf: Tensor, constraint: constraints.Constraint) -> None:
        old = self._params.get(name)
        if old is not None:
            self._names.pop(id(old), None)
        self._params[name] = leaf.requires_grad_() if leaf.is_leaf else leaf
        leaf.unconstrained = _Unconstrained(leaf)  # type: ignore[attr-defined]
        self._constraints[name] = constraint
        self._transforms[name] = to_constrained(constraint)
        self._names[id(leaf)] = name
        self.version += 1


def as_taken(message: Param) -> Param:
    """A parameter with the initial value that Pyro makes of what a program gives.

    The store keeps unconstrained values, so a vector or matrix comes back as the one that they map to: a simplex adds
    up to one, a triangular matrix has nothing above its diagonal. Whole numbers become floating-point ones.
    """
    constraint, init = message.constraint, message.init
    transform = to_constrained(constraint)
    if transform is None:
        return message
    value = init() if callable(init) else init
    if isinstance(value, Tensor):
        value = value.detach()
        if not (value.is_floating_point() or value.is_complex()):
            value = value.to(torch.get_default_dtype())
        if constraint.event_dim and not bool(constraint.check(value).all()):
            mapped = transform(transform.inv(value))
            if bool(mapped.isfinite().all()) and bool(constraint.check(mapped).all()):
                value = mapped
    return evolve(message, init=value)


class _Aside(ParamStoreDict):
    """The view of a store that an exploring run uses."""

    def __init__(self, store: ParamStoreDict) -> None:
        super().__init__()
        self._store = store
        self.registered, self.generation = store.registered, store.generation
        for name in store:
            self._take(name)

    def fetch(self, message: Param) -> Tensor:
        """As the store, which modules may have put an entry into meanwhile."""
        if message.name not in self._params and message.name in self._store._params:
            self._take(message.name)
        return super().fetch(message)

    def _take(self, name: str) -> None:
        leaf, store = self._store._params[name], self._store
        self._params[name], self._names[id(leaf)] = leaf, name
        self._constraints[name], self._transforms[name] = store._constraints[name], store._transforms[name]

    def adopt_baseline(self, site: str, part: str, module: nn.Module) -> None:
        """Nothing: the step itself registers a network, and says so."""


class Asking:
    """A `with` block that yields the names of the parameters that the engine reads in it."""

    def __init__(self, store: ParamStoreDict) -> None:
        self.store = store

    def __enter__(self) -> dict[str, None]:
        self.before: dict[str, None] = self.store.asked
        self.store.asked = {}
        return self.store.asked

    def __exit__(self, *error: object) -> None:
        self.store.asked = self.before


class _Unconstrained:
    """Returns the leaf behind a constrained value, without keeping it alive; a pickle drops it."""

    __slots__ = ("_leaf",)

    def __init__(self, leaf: Tensor | None = None) -> None:
        self._leaf = None if leaf is None else weakref.ref(leaf)

    def __call__(self) -> Tensor | None:
        return None if self._leaf is None else self._leaf()

    def __reduce__(self) -> tuple[type[_Unconstrained], tuple[()]]:
        return _Unconstrained, ()


def _compare(name: str, known: Tensor, init: Tensor) -> None:
    if known.shape != init.shape:
        warnings.warn(
            f"{name!r}: the store holds a parameter of shape {tuple(known.shape)}, and the initial value of shape "
            f"{tuple(init.shape)} is ignored. Try: pyro.clear_param_store() before another model is fitted",
            stacklevel=2,
        )


def _constraint_classes(kind: type) -> list[Callable[..., object] | tuple[Callable[..., object], str]]:
    found: list[Callable[..., object] | tuple[Callable[..., object], str]] = [kind]
    sub: type
    for sub in kind.__subclasses__():
        if sub.__module__.startswith(("torch.distributions.", "varigrad.")):
            found += _constraint_classes(sub)
    return found


_PYRO_PARAM_STORE = ParamStoreDict()
"""The store of the process."""
