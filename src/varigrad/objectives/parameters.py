"""Declared parameters and the modules that own them: by default the bound itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from varigrad._torch_internals import own_buffers, own_modules, own_parameters
from varigrad.errors import BaselineError, ParameterError, SiteNameError
from varigrad.language.messages import Module, Param
from varigrad.language.parameter_transforms import initial_value, to_constrained, unconstrain


@dataclass(frozen=True)
class Declaration:
    """A parameter as its first declaration described it."""

    shape: torch.Size
    constraint: constraints.Constraint
    transform: Transform | None
    """To the constrained space; None where there is no constraint."""
    owner: nn.Module
    key: str
    """The module that holds the unconstrained leaf, and its name there."""

    @property
    def leaf(self) -> Tensor:
        """The unconstrained leaf tensor that is trained."""
        return own_parameters(self.owner)[self.key]  # type: ignore[return-value]


class ParameterStore(Protocol):
    """Interface of the owner of parameters that runs of programs use.

    Attributes:
        version: changes whenever a parameter comes or goes.
    """

    version: int

    def constrained(self, message: Param, cache: dict[str, Tensor]) -> Tensor:
        """The constrained value of a parameter, created the first time; `cache` lasts one step."""

    def adopt(self, message: Module) -> None:
        """Own the parameters of a module that the program declares."""

    def adopt_baseline(self, site: str, part: str, module: nn.Module) -> None:
        """Own the network of a site's baseline."""

    def check_names(self, sites: Iterable[str]) -> None:
        """Raise if the name of a site is taken by a parameter."""

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """The unconstrained tensors, with their names."""

    def constrained_leaves(self) -> dict[str, Tensor]:
        """The constrained value of every parameter, by name; differentiable."""


class Group(nn.Module):
    """The part of a dotted parameter name before a dot; holds parameters and modules under any name.

    A name that is an attribute of torch's modules as well (`train`, `type`) stays that attribute: the parameter is in
    `named_parameters()` and `state_dict()`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # torch refuses `module.training = True` where `training` is a parameter or a module.
        if name in self._parameters.keys() | self._modules.keys() and not isinstance(value, (nn.Parameter, nn.Module)):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class Parameters(Group):
    """Owner of the parameters and modules that `param` and `module` declare; an ordinary torch module.

    A parameter named `"a.b"` is the parameter `b` of the submodule `a`, so that `named_parameters()` and
    `state_dict()` use the names that the program uses. Values are stored unconstrained.
    """

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, Declaration] = {}
        self.version: int = 0

    def constrained(self, message: Param, cache: dict[str, Tensor]) -> Tensor:
        """The constrained value of a declared parameter; declares it the first time. `cache` lasts one step.

        Raises:
            ParameterError: it was declared before with another shape or constraint.
        """
        name = message.name
        declared = self._declared.get(name)
        if declared is None:
            declared = self._declare(message)
        elif declared.constraint is not message.constraint or isinstance(message.init, (Tensor, float, int)):
            self._compare(message, declared)
        value = cache.get(name)
        if value is None:
            leaf = declared.leaf
            value = cache[name] = leaf if declared.transform is None else declared.transform(leaf)
        return value

    def adopt(self, message: Module) -> None:
        """Own the parameters of a module that the program declares."""
        self._check_name(message.name)
        *path, last = message.name.split(".")
        owner = self._group(path)
        known = own_modules(owner).get(last)
        if known is message.value or any(m is message.value for m in self.modules()):
            return
        if known is not None:
            raise ParameterError(
                "is another module object than the one declared before under this name",
                site=message.name,
                because="its parameters would never be trained",
                try_="build the module once, outside the program",
            )
        own_modules(owner)[last] = message.value
        self.version += 1

    def adopt_baseline(self, site: str, part: str, module: nn.Module) -> None:
        """Own a baseline's network under `baselines.<site>`.

        Raises:
            BaselineError: it shares a parameter with model or guide, or is another object than before.
        """
        path = [p for p in ("baselines", *site.split("."), *part.split(".")) if p]
        group = self._group(path[:-1])
        known = own_modules(group).get(path[-1])
        if known is module:
            return
        if known is not None:
            raise BaselineError(
                "its network is a new object in every run",
                site=site,
                because="its parameters would never be trained",
                try_="build the network once, outside the guide",
            )
        mine = {id(p) for p in module.parameters()}
        own = {id(p): n for n, p in self.named_parameters() if not n.startswith("baselines.")}
        shared = [name for key, name in own.items() if key in mine]
        if shared:
            raise BaselineError(
                f"its network shares the parameter {shared[0]!r} with model or guide",
                site=site,
                because="that parameter would be trained by the ELBO and by the baseline's loss at once",
                try_="a network of its own",
            )
        group.add_module(path[-1], module)
        self.version += 1

    def constrained_leaves(self) -> dict[str, Tensor]:
        """Constrained value of every `param`, by name; differentiable."""
        return {n: d.leaf if d.transform is None else d.transform(d.leaf) for n, d in self._declared.items()}

    def constrained_values(self) -> dict[str, Tensor]:
        """Constrained value of every `param`, by name; detached."""
        return {name: value.detach() for name, value in self.constrained_leaves().items()}

    def check_names(self, sites: Iterable[str]) -> None:
        """Check that no site has the name of a `param`.

        Raises:
            SiteNameError: one has.
        """
        for name in sites:
            if name in self._declared:
                raise SiteNameError(
                    "is the name of a param and of a sample, factor or deterministic site",
                    site=name,
                    because="a trace has one entry for each name",
                    try_=f"param({name + '_value'!r}, ...)",
                )

    def _declare(self, message: Param) -> Declaration:
        value = initial_value(message)
        self._check_name(message.name)
        *path, last = message.name.split(".")
        owner = self._group(path)
        if last in own_parameters(owner) or last in own_buffers(owner):
            raise ParameterError("is the name of a parameter already", site=message.name, try_="another name")
        # Not by `register_parameter`, which refuses the names of a module's attributes.
        own_parameters(owner)[last] = nn.Parameter(unconstrain(value, message.constraint, message.name))
        constraint = message.constraint
        declared = Declaration(value.shape, constraint, to_constrained(constraint), owner, last)
        self._declared[message.name] = declared
        self.version += 1
        return declared

    def _compare(self, message: Param, declared: Declaration) -> None:
        shape = message.init.shape if isinstance(message.init, Tensor) else torch.Size()
        if isinstance(message.init, (Tensor, float, int)) and shape != declared.shape:
            raise ParameterError(
                f"is declared with shape {tuple(shape)}, and was before with {tuple(declared.shape)}",
                site=message.name,
                try_="one name for each parameter",
            )
        if declared.constraint is not message.constraint and str(declared.constraint) != str(message.constraint):
            raise ParameterError(
                f"is declared with constraint {message.constraint}, and was before with {declared.constraint}",
                site=message.name,
                try_="the same constraint everywhere",
            )

    def _group(self, path: list[str]) -> nn.Module:
        owner: nn.Module = self
        for part in path:
            inner = own_modules(owner).get(part)
            if inner is None:
                inner = Group()
                own_modules(owner)[part] = inner
            owner = inner
        return owner

    def _check_name(self, name: str) -> None:
        parts = name.split(".")
        if parts[0] == "baselines":
            raise ParameterError("names that start with 'baselines' belong to baselines", site=name)
        if "" in parts:
            raise ParameterError("has nothing before, between or after its dots", site=name, try_="another name")
        if parts[0] == "_estimators" and len(parts) > 1:
            raise ParameterError("names that start with '_estimators.' belong to the estimators' states", site=name)
        if "_extra_state" in parts:
            raise ParameterError("is where torch's modules save what is no parameter", site=name, try_="another name")
