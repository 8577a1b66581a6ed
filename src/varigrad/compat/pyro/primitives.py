"""Pyro's primitives (sample, param, module, factor, ...): they send messages to varigrad's handlers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

from varigrad._torch_internals import own_parameters
from varigrad.compat.pyro import settings
from varigrad.compat.pyro.params.names import param_with_module_name
from varigrad.compat.pyro.params.param_store import _PYRO_PARAM_STORE, Init, ParamStoreDict
from varigrad.compat.pyro.plates import iarange as iarange
from varigrad.compat.pyro.plates import irange as irange
from varigrad.compat.pyro.plates import markov as markov
from varigrad.compat.pyro.plates import plate as plate
from varigrad.compat.pyro.plates import plate_stack as plate_stack
from varigrad.compat.pyro.sites import check_infer
from varigrad.errors import SiteError
from varigrad.language import primitives as native
from varigrad.language.messages import Forward, Message, Module, Named, Param, Sample, evolve
from varigrad.language.runtime import Scope, apply, handlers_in_force

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


def get_param_store() -> ParamStoreDict:
    """The parameter store of this process."""
    return _PYRO_PARAM_STORE


def clear_param_store() -> None:
    """Forget all parameters; later statements declare them anew."""
    _PYRO_PARAM_STORE.clear()


def sample(
    name: str,
    fn: td.Distribution,
    *args: object,
    obs: Tensor | None = None,
    obs_mask: Tensor | None = None,
    infer: Mapping[str, object] | None = None,
    **kwargs: object,
) -> Tensor:
    """A random choice named `name`.

    Args:
        name: unique within a run of the program.
        fn: its distribution, batch shape `[*plates]`.
        obs: the observed value, `[*plates, *event]`; None for a latent choice.
        obs_mask: bool, `[*plates]`: where False, the value is missing and drawn as the latent site
            `name + "_unobserved"`.
        infer: `{"enumerate": "parallel"}`, `{"baseline": {...}}`, `{"is_auxiliary": True}`, and anything for handlers
            of your own.

    Returns:
        The value, `[*plates, *event]`.

    Raises:
        SiteError: `fn` is not a distribution, or `infer` cannot be meant.
        BaselineError: an unknown option of a baseline, or one where none can act.
    """
    if args or kwargs:
        raise SiteError(
            "sample takes a distribution, and no arguments for it",
            site=name if isinstance(name, str) else None,
            try_=f"sample({name!r}, Distribution(...))",
        )
    notes = dict(infer) if infer else {}
    if notes:
        check_infer(name, notes, obs is not None)
    if obs is not None and not handlers_in_force():
        warnings.warn(
            f"{name!r} is observed, and nothing is listening: outside of inference the value is just passed on",
            RuntimeWarning,
            stacklevel=2,
        )
    if obs is None and obs_mask is not None:  # predictions: both parts are drawn
        return native.partly_observed(name, fn, None, obs_mask, notes=notes)
    if isinstance(name, str) and not _GLOB.isdisjoint(name):
        return _called(name, lambda plain: native.sample(plain, fn, obs, obs_mask=obs_mask, notes=notes))
    return native.sample(name, fn, obs, obs_mask=obs_mask, notes=notes)


_GLOB = frozenset("*?[]")


def _called(name: str, statement: Callable[[str], T]) -> T:
    """A statement under a name with brackets or stars in it, which natively choose sites by pattern."""
    plain = "".join("_" if c in _GLOB else c for c in name)

    def rename(message: Message, forward: Forward) -> Message:
        if isinstance(message, Named):
            message = evolve(message, name=name + message.name.removeprefix(plain))
        return forward(message)

    with Scope(rename):
        return statement(plain)


def param(
    name: str,
    init_tensor: Init = None,
    constraint: constraints.Constraint = constraints.real,
    event_dim: int | None = None,
) -> Tensor:
    """A learnable tensor that lives in the parameter store; one that is there already keeps its value.

    Args:
        name: its name there.
        init_tensor: its first value, or a function that makes it.
        constraint: where it lives; the store keeps it unconstrained.
        event_dim: number of rightmost dimensions that are no plates: inside a subsampled plate, the
            dimensions left of them are cut down to the minibatch.

    Returns:
        The constrained value.

    Raises:
        UnknownParameterError: (a `KeyError`, too) it is not in the store, and there is no initial value.
        ConstraintError: the initial value is outside the constraint.
    """
    return native.value_of(Param(name, init_tensor, constraint, event_dim, fallback=_stored))


def _stored(message: Param) -> Tensor:
    return _PYRO_PARAM_STORE.fetch(message)


_OF_MODULE = Param("", None, constraints.real, None, fallback=_stored)


def module(name: str, nn_module: M, update_module_params: bool = False) -> M:
    """Register the parameters of a module as `name$$$parameter`, to be learnt.

    Args:
        update_module_params: put parameters that the store already has in the place of the module's own.

    Raises:
        SiteError: it is no module.
    """
    if not isinstance(nn_module, nn.Module):
        raise SiteError(f"module needs a torch.nn.Module, got {type(nn_module).__name__}", site=name)
    frozen, others = [], []
    one_by_one = not all(getattr(handler, "takes_modules", False) for handler in handlers_in_force())
    for key, own in list(nn_module.named_parameters()):
        if not own.requires_grad:
            frozen.append(key)
            continue
        full = param_with_module_name(name, key)
        _PYRO_PARAM_STORE.hold(full, own)
        if one_by_one:
            stored = native.value_of(evolve(_OF_MODULE, name=full))
        else:
            stored = _PYRO_PARAM_STORE[full]
            _PYRO_PARAM_STORE.asked[full] = None
        if stored is own:
            continue
        if update_module_params:
            _replace(nn_module, key, stored)
        elif stored.is_leaf:
            others.append(full)
    if not one_by_one:
        if _PYRO_PARAM_STORE.registered.get(name) is not nn_module:
            _PYRO_PARAM_STORE.registered[name] = nn_module
        apply(Module(name, nn_module))
    if others:
        warnings.warn(
            f"{', '.join(others)}: the parameter store has other tensors of these names than this module, whose own "
            "are not learnt. Try: pyro.clear_param_store() before another module is used, or "
            "pyro.module(name, net, update_module_params=True) to take over what the store has",
            stacklevel=2,
        )
    if frozen and nn_module.training:
        warnings.warn(
            f"{', '.join(frozen)} of module {name!r} will not be learnt, because requires_grad is off. In a module "
            "that is in evaluation mode (net.eval()) nothing is said of it",
            stacklevel=2,
        )
    return nn_module


def _replace(owner: nn.Module, key: str, value: Tensor) -> None:
    """Put a tensor in the place of a module's parameter."""
    *path, last = key.split(".")
    for part in path:
        owner = getattr(owner, part)
    del own_parameters(owner)[last]
    if isinstance(value, nn.Parameter):
        own_parameters(owner)[last] = value
    elif value.is_leaf and value.requires_grad:
        fresh = nn.Parameter(value.detach())
        name = _PYRO_PARAM_STORE.param_name(value)
        if name is not None:
            del _PYRO_PARAM_STORE[name]
            _PYRO_PARAM_STORE.hold(name, fresh)
        own_parameters(owner)[last] = fresh
    else:
        setattr(owner, last, value)


def random_module(name: str, nn_module: M, prior: Any, *args: object, **kwargs: object) -> Callable[[], M]:
    """A function that returns a copy of the module whose parameters are drawn from `prior`, as `name$$$parameter`.

    Args:
        prior: a distribution for all parameters, a dictionary of them by the parameter's name, or a function that
            draws a parameter given its site's name.

    Raises:
        SiteError: it is no module.
    """
    if not isinstance(nn_module, nn.Module):
        raise SiteError(f"random_module needs a torch.nn.Module, got {type(nn_module).__name__}", site=name)
    warnings.warn("random_module is deprecated. Try: pyro.nn.PyroModule", FutureWarning, stacklevel=2)

    def lifted(message: Message, forward: Forward) -> Message:
        if not isinstance(message, Param):
            return forward(message)
        own = prior
        if isinstance(prior, Mapping):
            own = prior.get(message.name, prior.get(message.name.split("$$$", 1)[-1]))
        if callable(own) and not isinstance(own, td.Distribution):
            return evolve(message, value=own(message.name, *args, **kwargs))
        if own is None:
            return forward(message)
        drawn = forward(Sample(message.name, own, None, False))
        assert isinstance(drawn, Sample)
        return evolve(message, value=drawn.value)

    def draw() -> M:
        twin = copy.deepcopy(nn_module)
        with Scope(lifted):
            for key, own in list(twin.named_parameters()):
                full = param_with_module_name(name, key)
                drawn = native.value_of(Param(full, own, constraints.real, None, fallback=_stored))
                if drawn is not own:
                    _replace(twin, key, drawn)
        return twin

    return draw


def factor(name: str, log_factor: Tensor | float, *, has_rsample: bool | None = None) -> None:
    """Add `log_factor`, `[*plates]`, to the log-density.

    Args:
        has_rsample: of no importance here: what it depends on is followed.
    """
    if not _GLOB.isdisjoint(name):
        return _called(name, lambda plain: native.factor(plain, log_factor))
    return native.factor(name, log_factor)


def deterministic(name: str, value: Tensor, event_dim: int | None = None) -> Tensor:
    """Record a computed value in traces and predictions under `name`; returns it."""
    if not _GLOB.isdisjoint(name):
        return _called(name, lambda plain: native.deterministic(plain, value, event_dim))
    return native.deterministic(name, value, event_dim)


def subsample(data: Tensor, event_dim: int) -> Tensor:
    """`data`, `[*plates, *event]`, cut down to the minibatch of the plates around this call."""
    return native.subsample(data, event_dim)


def barrier(data: T) -> T:
    """`data` itself: a place where programs of other backends wait."""
    return data


def enable_validation(is_validate: bool = True) -> None:
    """Switch the checks on or off that cost time in every run.

    What is wrong whatever the data (shapes, names, plates that mix) is checked once, on a program's first run, in
    either case.
    """
    for key in ("validate_distributions_pyro", "validate_distributions_torch", "validate_poutine", "validate_infer"):
        settings.set(**{key: is_validate})


class validation_enabled:  # noqa: N801 - Pyro's name
    """A `with` block with validation on or off."""

    def __init__(self, is_validate: bool = True) -> None:
        self._context = settings.context(
            validate_distributions_pyro=is_validate,
            validate_distributions_torch=is_validate,
            validate_poutine=is_validate,
            validate_infer=is_validate,
        )

    def __enter__(self) -> None:
        self._context.__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.__exit__(exc_type, exc_value, traceback)
