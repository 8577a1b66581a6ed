"""`PyroModule`: torch modules whose attributes are parameters of the store, or random choices drawn once a call.

Inside a call of a module, or a method marked `pyro_method`, reading an attribute calls `pyro.param`, `pyro.sample` or
`pyro.module` with the attribute's full name, once; reading it again gives the same value. Outside, reading an attribute
only computes a parameter, and draws a random choice anew.
"""

from __future__ import annotations

import copyreg
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

from varigrad._torch_internals import own_modules, own_parameters
from varigrad.compat.pyro import primitives, settings
from varigrad.compat.pyro.nn.attributes import Context, OnFirstUse
from varigrad.compat.pyro.nn.attributes import PyroParam as PyroParam
from varigrad.compat.pyro.nn.attributes import PyroSample as PyroSample
from varigrad.compat.pyro.params.param_store import ParamStoreDict, _Unconstrained, as_taken
from varigrad.errors import ParameterError
from varigrad.language.messages import Param
from varigrad.language.parameter_transforms import initial_value, to_constrained, unconstrain
from varigrad.language.primitives import value_of
from varigrad.language.runtime import apply

F = TypeVar("F", bound=Callable[..., Any])

_LEAF = "_unconstrained"


class _PyroModuleMeta(type):
    """Metaclass for `PyroModule[nn.Linear]`, a subclass of both classes."""

    def __getitem__(cls, kind: type[nn.Module]) -> type[PyroModule]:
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise TypeError(f"PyroModule[...] takes a class of torch.nn.Module, got {kind!r}")
        if issubclass(kind, PyroModule):
            return kind
        if kind is nn.Module:
            return PyroModule
        if kind is nn.ModuleList:
            return PyroModuleList
        made = _MADE.get(kind)
        if made is None:
            body = {"__module__": __name__, "__doc__": kind.__doc__, "_pyro_mixes": kind}
            made = cast("type[PyroModule]", _PyroModuleMeta(f"Pyro{kind.__name__}", (kind, PyroModule), body))
            _MADE[kind] = made
        return made


_MADE: weakref.WeakKeyDictionary[type, type[PyroModule]] = weakref.WeakKeyDictionary()


def _pickled(kind: type) -> str | tuple[Callable[..., object], tuple[type, ...]]:
    """Made classes have no name to be found by, only what they were made from."""
    mixed = vars(kind).get("_pyro_mixes")
    return kind.__qualname__ if mixed is None else (_made, (mixed,))


def _made(kind: type[nn.Module]) -> type[PyroModule]:
    return PyroModule[kind]


copyreg.pickle(_PyroModuleMeta, _pickled)  # type: ignore[arg-type] # reductions are annotated for instances


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
    _pyro_context: Context
    _pyro_params: dict[str, tuple[constraints.Constraint, int | None]]
    _pyro_samples: dict[str, PyroSample]

    def __init__(self, name: str = "") -> None:
        self.__dict__.update(_pyro_name=name, _pyro_context=Context(), _pyro_params={}, _pyro_samples={})
        super().__init__()

    def __call__(self, *args: object, **kwargs: object) -> Any:
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

    def _pyro_set_supermodule(self, name: str, context: Context) -> None:
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
        found = prior if isinstance(prior, td.Distribution) else prior(self)
        if isinstance(found, td.Distribution):
            return primitives.sample(full, found)
        return primitives.deterministic(full, found)

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
            if isinstance(getattr(type(self), name, None), OnFirstUse):
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


def _forget(store: ParamStoreDict, *names: str) -> None:
    for name in names:
        if name in store:
            del store[name]


class PyroModuleList(nn.ModuleList, PyroModule):
    """A list of modules; entries that are `PyroModule`s are called by their numbers."""

    def __init__(self, modules: Iterable[nn.Module] | None = None) -> None:
        super().__init__(modules)

    def __getitem__(self, idx: int | slice) -> Any:
        return PyroModuleList(list(self)[idx]) if isinstance(idx, slice) else super().__getitem__(idx)


def pyro_method(method: F) -> F:
    """Let a method be a call of its module: attributes are statements, each executed once."""

    @functools.wraps(method)
    def called(self: PyroModule, *args: object, **kwargs: object) -> object:
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
        m.__class__ = PyroModule[type(m)]
        m.__dict__.update(_pyro_name="", _pyro_context=Context(), _pyro_params={}, _pyro_samples={})
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
