"""`PyroOptim`: optimisers whose parameters are added when steps first use them, and stepped together where possible.

To the user, each parameter of the store has a separate optimiser, made when a step first uses the parameter, with
options and a saved state found by its name. The optimisers of torch treat each tensor by itself, so parameters that
were added at the same time with the same options share one object and one fused step, for as long as they are stepped
together. When they are not, or `optim_objs` is read, each gets a separate optimiser, with the state it had.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from varigrad.compat.pyro.params.names import module_from_param_with_module_name, user_param_name
from varigrad.compat.pyro.primitives import get_param_store
from varigrad.errors import ParameterError, VarigradError, did_you_mean
from varigrad.optim.adagrad_rmsprop import AdagradRMSProp as _AdagradRMSProp
from varigrad.optim.clipped_adam import ClippedAdam as _ClippedAdam
from varigrad.optim.fused_adam import FusedAdam
from varigrad.optim.gradient_layout import check_writable, laid_out_like, prepare_kernels

Options = Mapping[str, Any]
OptionsByName = Options | Callable[..., Options]
State = dict[str, Any]

_CLIPS = ("clip_norm", "clip_value")
_EACH_BY_ITSELF = ("torch.optim", "varigrad.optim.")


@dataclass(eq=False)
class _Group:
    """Parameters that are stepped together, by one optimiser."""

    params: list[Tensor]
    names: list[str | None]
    options: Options
    clip: Options
    optimizer: torch.optim.Optimizer
    scheduler: Any = None


class PyroOptim:
    """Called with tensors whose `.grad` is set, takes a step for each, along a copy of it in the tensor's own layout.

    Args:
        optim_constructor: a class of `torch.optim`, or another optimiser class.
        optim_args: its keyword arguments, or a function of a parameter's name (`net.weight` for parameter `weight` of
            module `net`), or of module's and parameter's name, that returns them.
        clip_args: `clip_norm` or `clip_value` or both, for each parameter's gradient by itself; or a function alike.

    Raises:
        VarigradError: (a `ValueError`) the arguments are neither a dictionary nor a function.
    """

    def __init__(
        self,
        optim_constructor: Callable[..., torch.optim.Optimizer],
        optim_args: OptionsByName,
        clip_args: OptionsByName | None = None,
    ) -> None:
        clip_args = {} if clip_args is None else clip_args
        for what, given in (("optim_args", optim_args), ("clip_args", clip_args)):
            if not (isinstance(given, Mapping) or (callable(given) and not isinstance(given, type))):
                raise VarigradError(
                    f"{what} must be a dictionary, or a function of a parameter's name that returns one, got {given!r}",
                    try_='{"lr": 1e-3}, or lambda name: {"lr": 1e-2 if "baseline" in name else 1e-3}',
                )
        self.pt_optim_constructor = optim_constructor
        self.pt_optim_args = optim_args
        self.pt_clip_args = clip_args
        self._together = getattr(optim_constructor, "__module__", "").startswith(_EACH_BY_ITSELF)
        self._groups: list[_Group] = []
        self._known: dict[int, _Group] = {}
        self._waiting: dict[str, State] = {}
        self._last: tuple[list[int], list[_Group]] = ([], [])

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser of each parameter; `args` are handed on to its `step`."""
        params = list(params)
        ids = list(map(id, params))
        if ids != self._last[0]:
            self._last = ids, self._arrange(params)
        for p in params:
            if p.grad is not None:  # `backward()` may have given one tensor to two, or one that the user holds
                p.grad = laid_out_like(p.grad, p)
        for group in self._last[1]:
            if type(group.optimizer) is not FusedAdam:  # which looks for itself
                prepare_kernels(group.optimizer)
            if group.clip:
                for p in group.params:
                    _clip(p, **group.clip)
            group.optimizer.step(*args, **kwargs)
        torch.clear_autocast_cache()  # its copies are of the parameters as they were

    @property
    def optim_objs(self) -> dict[Tensor, Any]:
        """The optimiser (or scheduler) of each parameter. From here on they are not shared."""
        self._together = False
        self._split([g for g in self._groups if len(g.params) > 1])
        return {g.params[0]: g.scheduler or g.optimizer for g in self._groups}

    def get_state(self) -> dict[str, State]:
        """Each parameter's optimiser's `state_dict()`, by the parameter's name."""
        return {
            name: _state_of(group, p)
            for group in self._groups
            for p, name in zip(group.params, group.names, strict=True)
            if name is not None
        }

    def set_state(self, state_dict: Mapping[str, State]) -> None:
        """Go back to a state: of the parameters that are known at once, of others when they appear."""
        self._waiting = dict(state_dict)
        for group in list(self._groups):
            self._take_over(group)

    def save(self, filename: str | os.PathLike[str]) -> None:
        """Write the state to a file."""
        torch.save(self.get_state(), filename)

    def load(self, filename: str | os.PathLike[str], map_location: Any = None, weights_only: bool = True) -> None:
        """Go back to a state from a file, one of Pyro's own included; the file cannot run code."""
        self.set_state(torch.load(filename, map_location, weights_only=weights_only))

    # Options by name

    def _options(self, name: str | None) -> Options:
        return _by_name(self.pt_optim_args, name, "optim_args")

    def _clips(self, name: str | None) -> Options:
        found = _by_name(self.pt_clip_args, name, "clip_args")
        for key in found:
            if key not in _CLIPS:
                hint = did_you_mean(key, _CLIPS)
                raise VarigradError(f"clip_args has the unknown entry {key!r}{hint}", try_='{"clip_norm": 10.0}')
        return found

    # Groups

    def _arrange(self, params: list[Tensor]) -> list[_Group]:
        """The groups that consist of exactly these parameters."""
        new = [p for p in params if id(p) not in self._known]
        if new:
            self._forget()
            self._add(new)
        wanted = set(map(id, params))
        self._split([g for g in self._groups if 0 < sum(id(p) in wanted for p in g.params) < len(g.params)])
        return list({id(g): g for g in (self._known[i] for i in wanted)}.values())

    def _add(self, params: list[Tensor]) -> None:
        store = get_param_store()
        fresh: list[_Group] = []
        for p in params:
            name = store.param_name(p)
            check_writable([(name or "(without a name)", p)])
            options, clip = self._options(name), self._clips(name)
            group = next((g for g in fresh if _same(g.options, options) and g.clip == clip), None)
            if group is None or not self._together:
                fresh.append(_Group([p], [name], options, clip, None))  # type: ignore[arg-type]
            else:
                group.params.append(p)
                group.names.append(name)
        for group in fresh:
            self._equip(group)
            self._enter(group)
            self._take_over(group)

    def _enter(self, group: _Group) -> None:
        self._groups.append(group)
        self._known.update((id(p), group) for p in group.params)

    def _leave(self, group: _Group) -> None:
        self._groups.remove(group)
        for p in group.params:
            del self._known[id(p)]
        self._last = ([], [])

    def _equip(self, group: _Group) -> None:
        """Make the optimiser of some parameters."""
        group.optimizer = _optimizer(self.pt_optim_constructor, group.params, group.options)

    def _split(self, groups: Iterable[_Group]) -> None:
        """Give each parameter of some groups a separate optimiser, with the state it has."""
        for group in groups:
            self._leave(group)
            for p, name in zip(group.params, group.names, strict=True):
                single = _Group([p], [name], group.options, group.clip, group.optimizer)
                self._equip(single)
                _load([single], [_state_of(group, p)])
                self._enter(single)

    def _forget(self) -> None:
        """Let go of parameters that have left the store."""
        store = get_param_store()
        for group in list(self._groups):
            gone = [
                n is not None and store.param_name(p) is None for p, n in zip(group.params, group.names, strict=True)
            ]
            if all(gone):
                self._leave(group)
            elif any(gone):
                self._split([group])
        for group in [g for g in self._groups if len(g.params) == 1]:
            if group.names[0] is not None and store.param_name(group.params[0]) is None:
                self._leave(group)

    def _take_over(self, group: _Group) -> None:
        """Give the parameters of a group the states that wait for them."""
        states = [self._waiting.pop(n, None) if n is not None else None for n in group.names]
        if not any(states):
            return
        if len(group.params) > 1:
            self._split([group])
        singles = [self._known[id(p)] for p in group.params]
        found = [(s, g) for s, g in zip(states, singles, strict=True) if s is not None]
        _load([g for _, g in found], [s for s, _ in found])


def _by_name(given: OptionsByName, name: str | None, what: str) -> Options:
    if not callable(given):
        return dict(given)
    if name is None:
        raise ParameterError(
            f"a tensor that is not in the parameter store has no name to call {what} with",
            try_=f"a dictionary as {what}",
        )
    if len(inspect.signature(given).parameters) == 1:
        found = given(name.replace("$$$", "."))
    else:
        found = given(module_from_param_with_module_name(name), user_param_name(name))
    if not isinstance(found, Mapping):
        raise ParameterError(f"{what} returned {found!r} for it, and not a dictionary", site=name, try_='{"lr": 1e-3}')
    return dict(found)


def _same(one: Options, other: Options) -> bool:
    """Whether options are equal; tensors among them only if they are the same."""
    if one.keys() != other.keys():
        return False
    return all(
        v is other[k] or (not (isinstance(v, Tensor) or isinstance(other[k], Tensor)) and v == other[k])
        for k, v in one.items()
    )


def _optimizer(
    kind: Callable[..., torch.optim.Optimizer], params: list[Tensor], options: Options
) -> torch.optim.Optimizer:
    plain = not options.keys() & {"fused", "foreach", "capturable", "differentiable"}
    if kind is torch.optim.Adam and plain and all(p.is_floating_point() and p.device.type in _FUSED for p in params):
        return FusedAdam(params, **options, fused=True)
    return kind(params, **options)


_FUSED = ("cpu", "cuda")


def _clip(p: Tensor, clip_norm: float | None = None, clip_value: float | None = None) -> None:
    if p.grad is None:
        return
    if clip_norm is not None:
        clip_grad_norm_(p, clip_norm)
    if clip_value is not None:
        clip_grad_value_(p, clip_value)


def _state_of(group: _Group, p: Tensor) -> State:
    """The `state_dict()` that an optimiser of this parameter alone would have."""
    settings = {k: v for k, v in group.optimizer.param_groups[0].items() if k not in ("params", "param_names")}
    own = group.optimizer.state.get(p, {})
    state = {"state": {0: dict(own)} if own else {}, "param_groups": [{**settings, "params": [0]}]}
    if group.scheduler is None:
        return state
    return {"scheduler": group.scheduler.state_dict(), "optimizer": state}


def _load(groups: Iterable[_Group], states: Iterable[State]) -> None:
    for group, state in zip(groups, states, strict=True):
        if group.scheduler is not None and "scheduler" in state:
            group.scheduler.load_state_dict(state["scheduler"])
        group.optimizer.load_state_dict(state.get("optimizer", state))


def is_scheduler(optimizer: object) -> bool:
    """Whether it is a learning-rate scheduler and no optimiser."""
    return isinstance(optimizer, torch.optim.lr_scheduler.LRScheduler)


def ClippedAdam(optim_args: OptionsByName) -> PyroOptim:  # noqa: N802
    """`varigrad.optim.clipped_adam.ClippedAdam` for every parameter."""
    return PyroOptim(_ClippedAdam, optim_args)


def AdagradRMSProp(optim_args: OptionsByName) -> PyroOptim:  # noqa: N802
    """`varigrad.optim.adagrad_rmsprop.AdagradRMSProp` for every parameter."""
    return PyroOptim(_AdagradRMSProp, optim_args)


def DCTAdam(optim_args: OptionsByName) -> PyroOptim:  # noqa: N802
    """ClippedAdam: that is what it is for parameters that are no time series.

    Raises:
        NotImplementedError: `subsample_aware` is True.
    """

    def without(options: Options) -> Options:
        if options.get("subsample_aware"):
            raise NotImplementedError("DCTAdam(subsample_aware=True) is not there. Try: ClippedAdam")
        return {k: v for k, v in options.items() if k != "subsample_aware"}

    if isinstance(optim_args, Mapping):
        return PyroOptim(_ClippedAdam, without(optim_args))
    return PyroOptim(_ClippedAdam, optim_args)
