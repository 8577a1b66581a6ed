"""Modules whose attributes are statements: parameters of the store, and random choices drawn once a call.

Inside a call of a module, or a method marked `pyro_method`, reading an attribute says `pyro.param`, `pyro.sample` or
`pyro.module` under the attribute's full name, once; reading it again gives the same value. Outside, a parameter is
just computed, and a random choice drawn anew.
"""

from __future__ import annotations

import copyreg
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

from varigrad._torch_internals import own_modules, own_parameters
from varigrad.compat.pyro import primitives, settings
from varigrad.compat.pyro.params.param_store import _Unconstrained, as_taken
from varigrad.errors import ParameterError
from varigrad.language.messages import Param
from varigrad.language.parameter_transforms import initial_value, to_constrained, unconstrain
from varigrad.language.primitives import value_of
from varigrad.language.runtime import apply

F = TypeVar("F", bound=Callable[..., Any])

_LEAF = "_unconstrained"


class _OnFirstUse:
    """A description of an attribute that stands in a class body: it becomes the instance's when first read."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.name not in instance._pyro_params and self.name not in instance._pyro_samples:
            setattr(instance, self.name, self._for(instance))
        return instance.__getattr__(self.name)

    def _for(self, instance: Any) -> _OnFirstUse:
        raise NotImplementedError


@dataclass(frozen=True)
class PyroParam(_OnFirstUse):
    """Assigned to an attribute of a `PyroModule`, or around a method of one, declares a parameter.

    Args:
        init_value: its first value, or a function that makes it.
        constraint: where it lives; the module keeps it unconstrained, as `<name>_unconstrained`.
        event_dim: number of rightmost dimensions that are no plates.
    """

    init_value: Any = None
    constraint: constraints.Constraint = constraints.real
    event_dim: int | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)

    def __call__(self, init_value: Callable[[Any], Tensor]) -> PyroParam:
        """As a decorator with arguments."""
        return PyroParam(init_value, self.constraint, self.event_dim)

    def _for(self, instance: Any) -> PyroParam:
        return PyroParam(functools.partial(self.init_value, instance), self.constraint, self.event_dim)


@dataclass(frozen=True)
class PyroSample(_OnFirstUse):
    """Assigned to an attribute of a `PyroModule`, or around a method of one, declares a random choice.

    Args:
        prior: its distribution; or a function of the module that returns the distribution, or a value computed from
            other attributes.
    """

    prior: Any

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)

    def _for(self, instance: Any) -> PyroSample:
        return self


class _Context:
    """The call that is going on in a tree of modules, and what has been read in it."""

    def __init__(self) -> None:
        self.depth = 0
        self.cache: dict[str, Any] = {}

    @property
    def active(self) -> bool:
        return self.depth > 0

    def __enter__(self) -> None:
        if not self.depth:
            self.cache.clear()
        self.depth += 1

    def __exit__(self, *error: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.cache.clear()


class _PyroModuleMeta(type):
    """`PyroModule[nn.Linear]`: a class that is both."""

    def __getitem__(cls, kind: type[nn.Module]) -> type[PyroModule]:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"PyroModule[...] takes a class of torch.nn.Module, got {kind!r}")
        if issubclass(kind, PyroModule):
            return kind
        if kind is nn.Module:
            return PyroModule
        if kind is nn.ModuleList:
            return PyroModuleList
        made: Any = _MADE.get(kind)
        if made is None:
            body = {"__module__": __name__, "__doc__": kind.__doc__, "_pyro_mixes": kind}
            made = _MADE[kind] = _PyroModuleMeta(f"Pyro{kind.__name__}", (kind, PyroModule), body)
        return made


_MADE: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


def _pickled(kind: type) -> Any:
    """Made classes have no name to be found by, only what they were made from."""
    mixed = vars(kind).get("_pyro_mixes")
    return kind.__qualname__ if mixed is None else (_made, (mixed,))


def _made(kind: type[nn.Module]) -> type[PyroModule]:
    return PyroModule[kind]  # type: ignore[misc, valid-type]


copyreg.pickle(_PyroModuleMeta, _pickled)  # type: ignore[arg-type]


class PyroModule(nn.Module, metaclass=_PyroModuleMeta):
    """A torch module whose attributes may be parameters with constraints and random choices.

        class Line(PyroModule):
            def __init__(self):
                super().__init__()
                self.slope = PyroSample(dist.Normal(0.0, 1.0))
                self.noise = PyroParam(torch.tensor(1.0), constraints.positive)

    Args:
        name: what the names of its statements begin with; that of a part of another module is the attribute's.
    """

    _pyro_name: str
    _pyro_context: _Context
    _pyro_params: dict[str, tuple[constraints.Constraint, int | None]]
    _pyro_samples: dict[str, PyroSample]

    def __init__(self, name: str = "") -> None:
        self.__dict__.update(_pyro_name=name, _pyro_context=_Context(), _pyro_params={}, _pyro_samples={})
        super().__init__()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._pyro_context:
            return super().__call__(*args, **kwargs)

    def named_pyro_params(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """`(name, constrained value)` of all parameters."""
        for at, part in self.named_modules(prefix=prefix) if recurse else [(prefix, self)]:
            names = [*getattr(part, "_pyro_params", ()), *(n for n in own_parameters(part) if not _is_leaf(part, n))]
            for name in names:
                yield f"{at}.{name}" if at else name, getattr(part, name)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(name, module)
        self._attach(name, module)

    # Names

    def _pyro_get_fullname(self, name: str) -> str:
        return f"{self._pyro_name}.{name}" if self._pyro_name else name

    def _pyro_set_supermodule(self, name: str, context: _Context) -> None:
        """Take the name and the calls of the module that this one has become a part of."""
        self.__dict__.update(_pyro_name=name, _pyro_context=context)
        for key, part in self._modules.items():
            self._attach(key, part)

    def _attach(self, name: str, part: object) -> None:
        if isinstance(part, PyroModule):
            part._pyro_set_supermodule(self._pyro_get_fullname(name), self._pyro_context)

    # Reading

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if name in own.get("_pyro_params", ()):
            return self._cached(name, self._param) if self._pyro_context.active else self._computed(name)
        if name in own.get("_pyro_samples", ()):
            return self._cached(name, self._sample) if self._pyro_context.active else self._sample(name)
        found = super().__getattr__(name)
        if "_pyro_context" not in own or not self._pyro_context.active:
            return found
        if isinstance(found, nn.Parameter) and not _is_leaf(self, name):
            return self._cached(name, self._plain_param)
        if isinstance(found, nn.Module) and not isinstance(found, PyroModule):
            return self._cached(name, self._plain_module)
        return found

    def _cached(self, name: str, read: Callable[[str], Any]) -> Any:
        full, cache = self._pyro_get_fullname(name), self._pyro_context.cache
        if full not in cache:
            cache[full] = read(name)
        return cache[full]

    def _param(self, name: str) -> Tensor:
        constraint, event_dim = self._pyro_params[name]
        full = self._pyro_get_fullname(name)
        if settings.get("module_local_params"):
            return value_of(Param(full, None, constraint, event_dim, self._computed(name)))
        store, leaf = primitives.get_param_store(), self._parameters[name + _LEAF]
        assert leaf is not None
        store.hold(full, leaf, constraint)
        if store._params[full] is not leaf:  # what the store has wins
            self._parameters[name + _LEAF] = store.as_parameter(full)
        return primitives.param(full, None, constraint, event_dim)

    def _plain_param(self, name: str) -> Tensor:
        full, own = self._pyro_get_fullname(name), self._parameters[name]
        assert own is not None
        if settings.get("module_local_params"):
            return value_of(Param(full, None, constraints.real, None, own))
        if own.requires_grad:
            primitives.get_param_store().hold(full, own)
            return primitives.param(full)
        return own

    def _plain_module(self, name: str) -> nn.Module:
        part = self._modules[name]
        assert part is not None
        full = self._pyro_get_fullname(name)
        if not settings.get("module_local_params"):
            return primitives.module(full, part)
        for key, own in part.named_parameters():
            apply(Param(f"{full}$$${key}", None, constraints.real, None, own))
        return part

    def _sample(self, name: str) -> Tensor:
        prior, full = self._pyro_samples[name].prior, self._pyro_get_fullname(name)
        if not isinstance(prior, td.Distribution):
            prior = prior(self)
        if isinstance(prior, td.Distribution):
            return primitives.sample(full, prior)
        return primitives.deterministic(full, prior)

    def _computed(self, name: str) -> Tensor:
        """The constrained value of a parameter, without a statement."""
        leaf, transform = self._parameters[name + _LEAF], to_constrained(self._pyro_params[name][0])
        assert leaf is not None
        value = leaf if transform is None else transform(leaf)
        value.unconstrained = _Unconstrained(leaf)  # type: ignore[union-attr]
        return value

    # Writing

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            return super().__setattr__(name, value)
        if isinstance(value, PyroParam):
            return self._set_param(name, value)
        if isinstance(value, PyroSample):
            self._remove(name)
            self._pyro_samples[name] = value
            return None
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and name in self._pyro_params:
            return self._set_value(name, value)
        if name in self._pyro_params or name in self._pyro_samples:
            self._remove(name)
            if isinstance(getattr(type(self), name, None), _OnFirstUse):
                raise AttributeError(f"{name!r} is declared in the class, and cannot be another thing in an instance")
        elif isinstance(value, nn.Parameter) and name in self._parameters:
            self._remove(name)
        elif isinstance(value, nn.Module) and self._modules.get(name, value) is not value:
            self._forget_part(name)
        super().__setattr__(name, value)
        self._attach(name, value)
        return None

    def __delattr__(self, name: str) -> None:
        if not self._remove(name):
            super().__delattr__(name)

    def _set_param(self, name: str, given: PyroParam) -> None:
        self._remove(name)
        init = given.init_value
        declared = as_taken(Param(self._pyro_get_fullname(name), init, given.constraint, given.event_dim))
        value = initial_value(declared)
        leaf = unconstrain(value, given.constraint, self._pyro_get_fullname(name))
        self._pyro_params[name] = (given.constraint, given.event_dim)
        self.register_parameter(name + _LEAF, nn.Parameter(leaf))

    def _set_value(self, name: str, value: Tensor) -> None:
        """Another value for a parameter, in its place."""
        constraint, _ = self._pyro_params[name]
        full, leaf = self._pyro_get_fullname(name), self._parameters[name + _LEAF]
        assert leaf is not None
        free = unconstrain(value.detach(), constraint, full)
        if free.shape != leaf.shape:
            raise ParameterError(
                f"has shape {tuple(leaf.shape)}, and is given a value of shape {tuple(free.shape)}",
                site=full,
                try_="module.name = PyroParam(value, constraint)",
            )
        with torch.no_grad():
            leaf.copy_(free)
        self._pyro_context.cache.pop(full, None)

    def _remove(self, name: str) -> bool:
        """Take an attribute away, with its entries in the store; returns whether there was one."""
        store, full = primitives.get_param_store(), self._pyro_get_fullname(name)
        self._pyro_context.cache.pop(full, None)
        if name in self._pyro_params:
            del self._pyro_params[name], self._parameters[name + _LEAF]
            _forget(store, full)
        elif name in self._pyro_samples:
            del self._pyro_samples[name]
        elif name in self._parameters:
            del self._parameters[name]
            _forget(store, full)
        elif name in self._modules:
            self._forget_part(name)
            del self._modules[name]
        else:
            return self.__dict__.pop(name, _NOTHING) is not _NOTHING
        return True

    def _forget_part(self, name: str) -> None:
        """Take the entries of a module out of the store, which would otherwise win over those of its successor."""
        store, full, part = primitives.get_param_store(), self._pyro_get_fullname(name), self._modules[name]
        for key in [key for key, _ in part.named_parameters()] if part is not None else []:
            parts = key.split(".")
            splits = range(len(parts))  # which of the modules on the way is the outermost plain one is not known
            of_modules = (".".join([full, *parts[:i]]) + "$$$" + ".".join(parts[i:]) for i in splits)
            _forget(store, *of_modules, f"{full}.{key}", f"{full}.{key.removesuffix(_LEAF)}")


_NOTHING = object()


def _is_leaf(module: nn.Module, name: str) -> bool:
    return name.endswith(_LEAF) and name.removesuffix(_LEAF) in getattr(module, "_pyro_params", ())


def _forget(store: Any, *names: str) -> None:
    for name in names:
        if name in store:
            del store[name]


class PyroModuleList(nn.ModuleList, PyroModule):
    """A list of modules; entries that are `PyroModule`s are called by their numbers."""

    def __init__(self, modules: Iterable[nn.Module] | None = None) -> None:
        super().__init__(modules)

    def __getitem__(self, idx: Any) -> Any:
        return PyroModuleList(list(self)[idx]) if isinstance(idx, slice) else super().__getitem__(idx)


def pyro_method(method: F) -> F:
    """Let a method be a call of its module: attributes are statements, each said once."""

    @functools.wraps(method)
    def called(self: PyroModule, *args: Any, **kwargs: Any) -> Any:
        with self._pyro_context:
            return method(self, *args, **kwargs)

    return called  # type: ignore[return-value]


def to_pyro_module_(m: nn.Module, recurse: bool = True) -> None:
    """Make a module, and those inside it, a `PyroModule`, in its place.

    Raises:
        TypeError: it is not a `torch.nn.Module`.
    """
    if not isinstance(m, nn.Module):
        raise TypeError(f"to_pyro_module_ takes a torch.nn.Module, got {type(m).__name__}")
    if not isinstance(m, PyroModule):
        m.__class__ = PyroModule[type(m)]  # type: ignore[index]
        m.__dict__.update(_pyro_name="", _pyro_context=_Context(), _pyro_params={}, _pyro_samples={})
    if recurse:
        for name, part in list(own_modules(m).items()):
            if part is not None:
                to_pyro_module_(part)
                m._attach(name, part)  # type: ignore[operator]


def clear(mod: PyroModule) -> None:
    """Take all parameters, random choices and parts away from a module, and from the store."""
    for part in own_modules(mod).values():
        if isinstance(part, PyroModule):
            clear(part)
    for name in (*mod._pyro_params, *mod._pyro_samples, *own_parameters(mod), *own_modules(mod)):
        if not _is_leaf(mod, name):
            mod._remove(name)
