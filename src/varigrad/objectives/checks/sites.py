"""Checks of one site: its distribution's parameters, its value, their shapes and devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

from varigrad._torch_internals import has_dynamo_disabled_validation, has_own_validation, validates_arguments
from varigrad.distributions.finite_support import inner_of
from varigrad.distributions.mixin import Wrapper, filled
from varigrad.distributions.support_edges import edges_of, of_support
from varigrad.distributions.tensor_walk import is_known, tensors_of
from varigrad.errors import ConstraintError, ShapeError, SiteError, SupportError
from varigrad.estimators.base import Estimator
from varigrad.language.messages import Factor, Sample
from varigrad.language.runtime import plate_shape
from varigrad.shapes import broadcasts, join, table
from varigrad.terms.term import check_batch


def check_device(message: Sample) -> None:
    """Check that a site's distribution and value are on one device (scalars on the CPU go with any)."""
    assert message.value is not None
    tensors, _ = tensors_of(message.distribution)
    there = next((t for t in tensors if t.dim() or t.device.type != "cpu"), None)
    value = message.value
    if there is None or there.device == value.device or (value.dim() == 0 and value.device.type == "cpu"):
        return
    raise SiteError(
        f"its distribution is on {there.device} (parameter of shape {tuple(there.shape)}), its value on {value.device} "
        f"(shape {tuple(value.shape)})",
        site=message.name,
        try_=f"data.to({str(there.device)!r}), or svi.bound.to(device) for the parameters",
    )


def check_density(message: Sample | Factor, guide: dict[str, Sample], model: dict[str, Sample]) -> None:
    """Check that a site's distribution, value and plates fit in shape, and that its log-density can be computed."""
    if isinstance(message, Factor):
        _check_real(message.log_factor, "its log-factor", message.name)
        check_batch(message, message.log_factor.shape, plate_shape(message), message.log_factor.dim())
        return
    distribution, value = message.distribution, message.value
    assert value is not None
    batch, event = distribution.batch_shape, len(distribution.event_shape)
    given = value.shape[: value.dim() - event]
    for shape in (batch, given):
        check_batch(message, torch.Size(shape), plate_shape(message), len(shape))
    try:
        join(batch, given)
    except RuntimeError as error:
        raise ShapeError(
            f"its value has batch shape {tuple(given)}, its distribution {tuple(batch)}{table_of(guide, model)}",
            site=message.name,
            try_="data and parameters of the plates' sizes (or 1)",
        ) from error
    if message.mask is not None and message.observed:
        value = filled(distribution, value, message.mask)
    try:
        log_prob = distribution.log_prob(value)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        whole = not value.is_floating_point()
        raise SiteError(
            f"{type(distribution).__name__}.log_prob failed on a value of shape {tuple(value.shape)} and dtype "
            f"{value.dtype}: {error or type(error).__name__}",
            site=message.name,
            try_="data.float()" if whole else "values of the dtype and device of the distribution's parameters",
        ) from error
    _check_real(log_prob, f"the log-density of its {type(distribution).__name__}", message.name)


def _check_real(value: Tensor, what: str, site: str) -> None:
    if value.is_complex():
        raise SiteError(
            f"{what} is complex ({value.dtype})",
            site=site,
            because="a log-density is real, and so are the values and parameters of all families of torch and varigrad",
            try_="real and imaginary part as two entries of a real tensor (torch.view_as_real)",
        )


def check_parameters(message: Sample) -> None:
    """Check that every parameter of the distribution is finite and inside its domain."""
    unchecked = is_unchecked(message.distribution)
    for owner in _layers(message.distribution):
        try:
            declared = owner.arg_constraints
        except NotImplementedError:
            continue
        for name in declared:
            value = vars(owner).get(name)
            if isinstance(value, Tensor):
                _check_real(value, f"parameter {name!r} of {type(owner).__name__}", message.name)
        if unchecked:
            continue
        for name, constraint in declared.items():
            if name not in vars(owner) or constraints.is_dependent(constraint):
                continue
            value = getattr(owner, name)
            if not isinstance(value, Tensor):
                continue
            bad = ~constraint.check(value)
            if value.is_floating_point():
                # A logarithm of zero is a number here: a category that never occurs.
                broken = value.isnan() if "log" in name else ~value.isfinite()
                event = value.dim() - bad.dim()
                bad = bad | (broken.flatten(-event).any(-1) if event else broken)
            if bool(bad.any()):
                raise ConstraintError(
                    f"parameter {name!r} of {type(owner).__name__} is {example_of(value, bad)}, outside {constraint}",
                    site=message.name,
                    because=f"{int(bad.sum())} of {bad.numel()} entries are outside",
                    try_="param(..., constraint=...), or a positive link such as softplus or exp",
                )


def check_score(message: Sample, estimator: Estimator) -> None:
    """Check that the support of a density whose score is taken does not move with a parameter.

    The derivative of an integral whose ends move has a part that no score contains: the integrand at the ends.

    Raises:
        SiteError: the support, or a jump of the density, moves with a parameter.
    """
    if estimator.drawing.pathwise or not estimator.needs.cost:
        return
    distribution = message.distribution
    with torch.enable_grad():  # the image of an end under a transform shows what moves it
        edges = edges_of(distribution) if is_known(distribution) else of_support(distribution)
    if any(mover.requires_grad for mover in edges.moving):
        raise SiteError(
            f"{type(estimator).__name__} cannot serve this site",
            site=message.name,
            because=f"the support of {type(distribution).__name__} moves with a parameter, and a score function misses "
            "what the moving ends contribute",
            try_="Pathwise() and a model that is smooth in the value; or a family whose support stays, such as Beta",
        )


def check_value(message: Sample, guide: dict[str, Sample], model: dict[str, Sample]) -> None:
    """Check that an observed value has the distribution's shape and lies in its support; masked elements are exempt."""
    distribution, value, name = message.distribution, message.value, message.name
    assert value is not None
    if is_known(distribution):  # a class of the user's may have complex values
        _check_real(value, "the observation", name)
    if value.is_meta and type(value) in (Tensor, nn.Parameter):  # a subclass may keep its numbers elsewhere
        raise SiteError("the observation is on the meta device, and has no values", site=name, try_="data on a device")
    event = distribution.event_shape
    shape = tuple(value.shape)
    if value.dim() < len(event) or (event and not broadcasts(value.shape[value.dim() - len(event) :], event)):
        raise ShapeError(
            f"the observation has shape {shape}, the event shape is {tuple(event)}{table_of(guide, model)}",
            site=name,
            try_="data whose last dimensions are the event",
        )
    bad = outside(message, value)
    if bad is not None:
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise SupportError(
            f"the observation has {int(bad.sum())} of {bad.numel()} values outside the support of "
            f"{type(distribution).__name__}, the first at index {first}: {example_of(value, bad)}",
            site=name,
            because="NaN, infinite and impossible values have no density",
            try_="clean data, or mask=/obs_mask= for what is missing",
        )


def is_unchecked(distribution: td.Distribution) -> bool:
    """Whether the program has set `validate_args=False`, at the distribution or for all of them."""
    inner, _ = inner_of(distribution)
    while isinstance(inner, Wrapper):
        inner, _ = inner_of(inner.base)
    if validates_arguments(inner):
        return False
    said: bool | None = getattr(inner, "unchecked", None)
    if said is None:  # a class of torch's or the user's; ours leave checks to the engine, so theirs says nothing
        said = has_own_validation(inner)
    return said or (__debug__ and not validates_arguments(td.Distribution) and not has_dynamo_disabled_validation())


def outside(message: Sample, value: Tensor) -> Tensor | None:
    """Where the value is outside of the site's support, `[*batch]`, masked elements apart; None if it is nowhere."""
    ok = in_support(message.distribution, value)
    if ok is None:
        return None
    if message.mask is not None:
        ok = ok | ~message.mask
    return None if bool(ok.all()) else ~ok


def in_support(distribution: td.Distribution, value: Tensor) -> Tensor | None:
    """Where the value is in the support, `[*batch]`; None where that is not known or not to be asked."""
    if is_unchecked(distribution):
        return None
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    if support is None or constraints.is_dependent(support):
        return None
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        ok = _in_some_component(support, value)
    else:
        ok = support.check(value)
    if value.is_floating_point():
        finite = value.isfinite()
        event = value.dim() - ok.dim()
        ok = ok & (finite.flatten(-event).all(-1) if event > 0 else finite)
    return ok


def _in_some_component(support: Any, value: Tensor) -> Tensor:
    """Whether a mixture can have a value: torch asks whether all of its components can."""
    batch = value.dim() - support.event_dim
    each: Tensor = support.base_constraint.check(value.unsqueeze(batch))
    return each.reshape(*each.shape[:batch], -1).any(-1)


def _layers(distribution: td.Distribution) -> Iterable[td.Distribution]:
    yield distribution
    for part in vars(distribution).values():
        if isinstance(part, td.Distribution):
            yield from _layers(part)


def example_of(value: Tensor, bad: Tensor) -> str:
    """The first element of a value, `[*batch, *event]`, that is `bad`, `[*batch]`."""
    event = value.dim() - bad.dim()
    if event < 0:
        return "of the wrong shape"
    rows = value.expand(bad.shape + value.shape[bad.dim() :])[bad]
    row = rows[0]
    return f"{row.item():g}" if row.numel() == 1 else f"{row.tolist()}"[:80]


def table_of(guide: dict[str, Sample], model: dict[str, Sample]) -> str:
    """The shapes of all sites, for errors about one."""
    rows = []
    for program, sites in (("guide", guide), ("model", model)):
        for name, m in sites.items():
            d = m.distribution
            value = tuple(m.value.shape) if m.value is not None else ""
            rows.append((program, name, type(d).__name__, tuple(d.batch_shape), tuple(d.event_shape), value))
    return "\n" + table(rows, ("program", "site", "distribution", "batch", "event", "value")) + "\n"
