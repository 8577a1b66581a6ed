"""A registry of small programs whose exact gradients are known, for holding estimators to account.

Every site under test is named `z…`. Programs with finite guides are enumerated; the others bring their bound in closed
form or by quadrature, as a function of the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from varigrad import distributions as dist
from varigrad.language import handlers
from varigrad.language.messages import Program
from varigrad.language.plates import plate
from varigrad.language.primitives import factor, param, sample, subsample

Closed = Callable[[dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Case:
    """One program.

    Attributes:
        family: what its sites under test are drawn from.
        exact: its bound as a function of the constrained parameters; None: enumerate.
        broadcasts: whether it may be run with leading dimensions.
        heavy: whether estimators with several alternatives have too many outcomes to enumerate.
    """

    model: Program
    guide: Program
    family: str
    exact: Closed | None = None
    args: tuple[Any, ...] = ()
    broadcasts: bool = True
    heavy: bool = False


PROGRAMS: dict[str, Case] = {}


def _add(name: str, family: str, **options: Any) -> Callable[[type], type]:
    """Register a class with a `model`, a `guide` and perhaps an `exact`."""

    def register(programs: type) -> type:
        exact = getattr(programs, "exact", None)
        PROGRAMS[name] = Case(programs.model, programs.guide, family, exact, **options)  # type: ignore[attr-defined]
        return programs

    return register


def _t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _logits(name: str, *values: float) -> Tensor:
    return param(name, lambda: _t(*values))


def _scalar(name: str, value: float, constraint: Any = constraints.real) -> Tensor:
    return param(name, lambda: torch.tensor(value, dtype=torch.float64), constraint)


def _normal(loc: Any, scale: float = 1.0) -> dist.Normal:
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))


@_add("bernoulli", "Bernoulli")
class _Bernoulli:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Bernoulli(_t(0.3)[0]))
        sample("x", _normal(2 * z - 0.5), obs=_t(0.8)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Bernoulli(logits=_logits("t", 0.7)[0]))


@_add("zero_logits", "Bernoulli")
class _ZeroLogits:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(_t(0.3, 0.5)))
            sample("x", _normal(z), obs=_t(0.8, 0.5))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            sample("z", dist.Bernoulli(logits=_logits("t", 0.0, 0.0)))


@_add("extreme_probabilities", "Bernoulli")
class _Extreme:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(_t(0.9, 0.01)))
            sample("x", _normal(z * _t(3.0, -2.0)), obs=_t(2.0, 0.5))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            sample("z", dist.Bernoulli(logits=_logits("t", 6.0, -5.0)))


@_add("categorical", "Categorical")
class _Categorical:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Categorical(_t(0.2, 0.5, 0.3)))
        sample("x", _normal(_t(-1.0, 0.0, 2.0)[z]), obs=_t(0.4)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Categorical(logits=_logits("t", 0.1, -0.4, 0.9)))


@_add("mixture", "Categorical")
class _Mixture:
    def model() -> None:  # type: ignore[misc]
        locs = param("locs", lambda: _t(-1.0, 0.5, 2.0))
        with plate("data", 2):
            z = sample("z", dist.Categorical(_t(0.2, 0.5, 0.3)))
            sample("x", _normal(locs[z], 0.7), obs=_t(0.4, -1.3))

    def guide() -> None:  # type: ignore[misc]
        with plate("data", 2):
            sample(
                "z", dist.Categorical(logits=param("t", lambda: torch.stack([_t(0.1, -0.4, 0.9), _t(1.0, 0.0, 0.0)])))
            )


@_add("one_hot", "OneHotCategorical")
class _OneHot:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.OneHotCategorical(_t(0.2, 0.5, 0.3)))
        sample("x", _normal((z * _t(-1.0, 0.0, 2.0)).sum(-1)), obs=_t(0.4)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.OneHotCategorical(logits=_logits("t", 0.1, -0.4, 0.9)))


@_add("chain", "Bernoulli")
class _Chain:
    def model() -> None:  # type: ignore[misc]
        before = _t(0.0)[0]
        for i in range(3):
            before = sample(f"z{i}", dist.Bernoulli(0.2 + 0.5 * before))
            if i == 2:
                sample("x", _normal(before), obs=_t(0.9)[0])

    def guide() -> None:  # type: ignore[misc]
        t, w = _logits("t", 0.3, -0.5, 0.8), _scalar("w", 0.7)
        before = _t(0.0)[0]
        for i in range(3):
            before = sample(f"z{i}", dist.Bernoulli(logits=t[i] + w * before))


@_add("categorical_chain", "Categorical")
class _CategoricalChain:
    def model() -> None:  # type: ignore[misc]
        a = sample("za", dist.Categorical(_t(0.3, 0.7)))
        b = sample("zb", dist.Categorical(torch.stack([_t(0.1, 0.9), _t(0.8, 0.2)])[a]))
        sample("c", dist.Categorical(torch.stack([_t(0.5, 0.5), _t(0.6, 0.4)])[b]), obs=torch.tensor(0))

    def guide() -> None:  # type: ignore[misc]
        a = sample("za", dist.Categorical(logits=_logits("a", 0.2, -0.3)))
        table = param("b", lambda: torch.stack([_t(0.4, -0.1), _t(0.0, 0.6)]))
        sample("zb", dist.Categorical(logits=table[a]))


@_add("plate_under_global", "Bernoulli")
class _PlateUnderGlobal:
    def model() -> None:  # type: ignore[misc]
        g = sample("zg", dist.Bernoulli(_t(0.4)[0]))
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(_t(0.3, 0.6) * (0.5 + 0.5 * g)))
            sample("x", _normal(z + g), obs=_t(0.8, -0.2))

    def guide() -> None:  # type: ignore[misc]
        g = sample("zg", dist.Bernoulli(logits=_logits("g", 0.4)[0]))
        with plate("n", 2):
            sample("z", dist.Bernoulli(logits=_logits("t", 0.7, -0.3) + 0.5 * g))


@_add("nested_plates", "Bernoulli", heavy=True)
class _NestedPlates:
    def model() -> None:  # type: ignore[misc]
        with plate("rows", 2, dim=-2):
            r = sample("zr", dist.Bernoulli(_t(0.4)[0]))
            with plate("columns", 2, dim=-1):
                z = sample("z", dist.Bernoulli(0.3 + 0.4 * r))
                sample("x", _normal(z - r), obs=torch.stack([_t(0.8, -0.2), _t(0.1, 1.3)]))

    def guide() -> None:  # type: ignore[misc]
        with plate("rows", 2, dim=-2):
            r = sample("zr", dist.Bernoulli(logits=_logits("r", 0.4, -0.7).unsqueeze(-1)))
            with plate("columns", 2, dim=-1):
                sample("z", dist.Bernoulli(logits=_logits("t", 0.7, -0.3) + 0.5 * r))


@_add("subsampled_plate", "Bernoulli")
class _SubsampledPlate:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 3, subsample_size=2):
            z = sample("z", dist.Bernoulli(subsample(_t(0.3, 0.6, 0.2))))
            sample("x", _normal(z), obs=subsample(_t(0.8, -0.2, 0.4)))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 3, subsample_size=2):
            sample("z", dist.Bernoulli(logits=param("t", lambda: _t(0.7, -0.3, 0.2), event_dim=0)))


@_add("sequential_plate", "Bernoulli")
class _SequentialPlate:
    def model() -> None:  # type: ignore[misc]
        g = sample("zg", dist.Bernoulli(_t(0.4)[0]))
        for i in plate("n", 2):
            z = sample(f"z{i}", dist.Bernoulli(0.3 + 0.4 * g))
            sample(f"x{i}", _normal(z), obs=_t(0.8, -0.2)[i])

    def guide() -> None:  # type: ignore[misc]
        sample("zg", dist.Bernoulli(logits=_logits("g", 0.4)[0]))
        for i in plate("n", 2):
            sample(f"z{i}", dist.Bernoulli(logits=_logits("t", 0.7, -0.3)[i]))


@_add("plate_entered_twice", "Bernoulli", broadcasts=False)
class _PlateEnteredTwice:
    def model() -> None:  # type: ignore[misc]
        n = plate("n", 2)
        with n:
            z = sample("z", dist.Bernoulli(_t(0.3, 0.6)))
        g = sample("zg", dist.Bernoulli(0.2 + 0.3 * z.sum(-1)))
        with n:
            sample("x", _normal(g.unsqueeze(-1) * _t(1.0, -2.0)), obs=_t(0.8, -1.2))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(logits=_logits("t", 0.7, -0.3)))
        sample("zg", dist.Bernoulli(logits=_scalar("g", 0.4) + z.sum(-1)))


@_add("control_flow", "Bernoulli", broadcasts=False)
class _ControlFlow:
    def model() -> None:  # type: ignore[misc]
        a = sample("za", dist.Bernoulli(_t(0.4)[0]))
        b = sample("zb", dist.Bernoulli(_t(0.6)[0]))
        loc = _t(1.0)[0] * b if a > 0 else _t(-1.5)[0]
        sample("x", _normal(loc), obs=_t(0.3)[0])

    def guide() -> None:  # type: ignore[misc]
        a = sample("za", dist.Bernoulli(logits=_logits("a", 0.4)[0]))
        t = _logits("t", 0.9, -0.6)
        sample("zb", dist.Bernoulli(logits=t[0] if a > 0 else t[1]))


@_add("sites_that_come_and_go", "Bernoulli", broadcasts=False)
class _ComeAndGo:
    def model() -> None:  # type: ignore[misc]
        a = sample("za", dist.Bernoulli(_t(0.4)[0]))
        loc = _t(0.0)[0]
        if a > 0:
            loc = sample("zb", dist.Bernoulli(_t(0.6)[0])) * 2
        sample("x", _normal(loc), obs=_t(0.9)[0])

    def guide() -> None:  # type: ignore[misc]
        t = _logits("t", 0.4, -0.6)
        if sample("za", dist.Bernoulli(logits=t[0])) > 0:
            sample("zb", dist.Bernoulli(logits=t[1]))


@_add("masked", "Bernoulli", broadcasts=False)
class _Masked:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 3), handlers.mask(mask=torch.tensor([True, False, True])):
            z = sample("z", dist.Bernoulli(_t(0.3, 0.6, 0.2)))
            sample("x", _normal(z), obs=_t(0.8, torch.nan, 0.4))
        sample("y", _normal(z.sum(-1)), obs=_t(1.1)[0])

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 3), handlers.mask(mask=torch.tensor([True, False, True])):
            sample("z", dist.Bernoulli(logits=_logits("t", 0.7, -0.3, 0.2)))


@_add("scaled", "Bernoulli")
class _Scaled:
    def model() -> None:  # type: ignore[misc]
        with handlers.scale(scale=2.5):
            a = sample("za", dist.Bernoulli(_t(0.3)[0]))
        b = sample("zb", dist.Bernoulli(0.3 + 0.4 * a))
        with handlers.scale(scale=0.5):
            sample("x", _normal(b), obs=_t(0.8)[0])
        factor("f", 0.7 * a * b)

    def guide() -> None:  # type: ignore[misc]
        t = _logits("t", 0.7, -0.3)
        with handlers.scale(scale=2.5):
            a = sample("za", dist.Bernoulli(logits=t[0]))
        sample("zb", dist.Bernoulli(logits=t[1] * (1 - a)))


@_add("event", "Bernoulli event", heavy=True)
class _Event:
    def model() -> None:  # type: ignore[misc]
        w = param("w", lambda: _t(0.5, -1.0))
        z = sample("z", dist.Bernoulli(_t(0.3, 0.6)).to_event(1))
        h = sample("zh", dist.Bernoulli(logits=_t(0.4, -0.4) + (z * w).sum(-1, keepdim=True)).to_event(1))
        sample("x", _normal((h * w).sum(-1)), obs=_t(0.3)[0])

    def guide() -> None:  # type: ignore[misc]
        z = sample("z", dist.Bernoulli(logits=_logits("t", 0.7, -0.3)).to_event(1))
        sample("zh", dist.Bernoulli(logits=_logits("h", 0.1, 0.6) * (z - 0.5)).to_event(1))


def _grid(low: float, high: float, points: int = 20_001) -> Tensor:
    return torch.linspace(low, high, points, dtype=torch.float64)


def _integral(q: Any, f: Tensor, z: Tensor) -> Tensor:
    log_q = q.log_prob(z)
    return torch.trapezoid(log_q.exp() * (f - log_q), z)


@_add("normal", "Normal")
class _Normal:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", _normal(0.0))
        sample("x", _normal(z + torch.sin(z)), obs=_t(0.8)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Normal(_scalar("m", 0.3), _scalar("s", 0.8, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        z = _grid(-12, 12)
        f = _normal(0.0).log_prob(z) + _normal(z + torch.sin(z)).log_prob(_t(0.8)[0])
        return _integral(dist.Normal(p["m"], p["s"]), f, z)


@_add("gamma", "Gamma")
class _Gamma:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Gamma(_t(2.0)[0], _t(1.0)[0]))
        sample("x", dist.Poisson(z), obs=_t(3.0)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Gamma(_scalar("a", 2.5, constraints.positive), _scalar("b", 1.2, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        q = dist.Gamma(p["a"], p["b"])
        mean_log = torch.digamma(p["a"]) - p["b"].log()
        likelihood = 3 * mean_log - q.mean - torch.lgamma(_t(4.0)[0])
        return likelihood - kl_divergence(q, dist.Gamma(_t(2.0)[0], _t(1.0)[0]))


@_add("rejection_gamma", "RejectionGamma")
class _RejectionGamma:
    model = _Gamma.model

    def guide() -> None:  # type: ignore[misc]
        a, b = _scalar("a", 1.5, constraints.positive), _scalar("b", 1.2, constraints.positive)
        sample("z", dist.RejectionGamma(a, b))

    exact = _Gamma.exact  # type: ignore[attr-defined]


@_add("beta", "Beta")
class _Beta:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Beta(_t(10.0)[0], _t(10.0)[0]))
        with plate("n", 10):
            sample("x", dist.Bernoulli(z), obs=_t(1, 1, 1, 1, 1, 1, 0, 0, 0, 0))

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Beta(_scalar("a", 15.0, constraints.positive), _scalar("b", 15.0, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        a, b = p["a"], p["b"]
        both = torch.digamma(a + b)
        likelihood = 6 * (torch.digamma(a) - both) + 4 * (torch.digamma(b) - both)
        return likelihood - kl_divergence(dist.Beta(a, b), dist.Beta(_t(10.0)[0], _t(10.0)[0]))


@_add("dirichlet", "Dirichlet")
class _Dirichlet:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Dirichlet(_t(2.0, 2.0, 2.0)))
        with plate("n", 4):
            sample("x", dist.Categorical(z), obs=torch.tensor([0, 1, 1, 2]))

    def guide() -> None:  # type: ignore[misc]
        sample(
            "z", dist.Dirichlet(param("c", lambda: _t(2.0, 3.0, 1.5), constraints.independent(constraints.positive, 1)))
        )

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        c = p["c"]
        mean_log = torch.digamma(c) - torch.digamma(c.sum())
        return (mean_log * _t(1.0, 2.0, 1.0)).sum() - kl_divergence(
            dist.Dirichlet(c), dist.Dirichlet(_t(2.0, 2.0, 2.0))
        )


@_add("poisson", "Poisson")
class _Poisson:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Poisson(_t(2.0)[0]))
        sample("x", _normal((1 + z).sqrt()), obs=_t(2.2)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Poisson(_scalar("r", 3.0, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        z = torch.arange(80, dtype=torch.float64)
        log_q = dist.Poisson(p["r"]).log_prob(z)
        f = dist.Poisson(_t(2.0)[0]).log_prob(z) + _normal((1 + z).sqrt()).log_prob(_t(2.2)[0])
        return (log_q.exp() * (f - log_q)).sum()


@_add("exponential", "Exponential")
class _Exponential:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Exponential(_t(1.0)[0]))
        sample("x", dist.Poisson(z), obs=_t(2.0)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Exponential(_scalar("b", 0.7, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        rate = p["b"]
        likelihood = 2 * (torch.digamma(_t(1.0)[0]) - rate.log()) - 1 / rate - torch.lgamma(_t(3.0)[0])
        return likelihood - kl_divergence(dist.Exponential(rate), dist.Exponential(_t(1.0)[0]))


@_add("event_of_normals", "Normal event")
class _EventOfNormals:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Normal(_t(0.0, 0.5), _t(1.0)).to_event(1))
            sample("x", _normal(z[..., 0] * z[..., 1]), obs=_t(0.8, -0.4))

    def guide() -> None:  # type: ignore[misc]
        scale = param("s", lambda: _t(0.8, 0.5), constraints.positive)
        with plate("n", 2):
            sample("z", dist.Normal(param("m", lambda: torch.stack([_t(0.3, -0.6), _t(0.0, 0.9)])), scale).to_event(1))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        m, v = p["m"], p["s"].square()
        mean, square = m.prod(-1), (m.square() + v).prod(-1)
        x = _t(0.8, -0.4)
        likelihood = -0.5 * (x.square() - 2 * x * mean + square) - 0.9189385332046727
        prior = dist.Normal(_t(0.0, 0.5), _t(1.0))
        return likelihood.sum() - kl_divergence(dist.Normal(m, p["s"]), prior).sum()


@_add("binomial", "Binomial")
class _Binomial:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Binomial(3, _t(0.5, 0.4)))
            sample("x", _normal((1 + z).sqrt()), obs=_t(1.8, 1.1))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            sample("z", dist.Binomial(3, logits=_logits("t", 0.3, -2.0)))


def _counted(q: Any, prior: Any) -> Tensor:
    """The bound of a program that counts, with a Normal around the count's square root."""
    z = torch.arange(400, dtype=torch.float64)
    log_q = q.log_prob(z)
    f = prior.log_prob(z) + _normal((1 + z).sqrt()).log_prob(_t(2.2)[0])
    return (log_q.exp() * (f - log_q)).sum()


@_add("geometric", "Geometric")
class _Geometric:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Geometric(_t(0.3)[0]))
        sample("x", _normal((1 + z).sqrt()), obs=_t(2.2)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Geometric(_scalar("p", 0.4, constraints.unit_interval)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        return _counted(dist.Geometric(p["p"]), dist.Geometric(_t(0.3)[0]))


@_add("negative_binomial", "NegativeBinomial")
class _NegativeBinomial:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.NegativeBinomial(_t(2.0)[0], _t(0.5)[0]))
        sample("x", _normal((1 + z).sqrt()), obs=_t(2.2)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.NegativeBinomial(_t(2.5)[0], logits=_scalar("t", -0.2)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        return _counted(dist.NegativeBinomial(_t(2.5)[0], logits=p["t"]), dist.NegativeBinomial(_t(2.0)[0], _t(0.5)[0]))


@_add("plate_of_normals_under_a_switch", "Normal")
class _Switch:
    def model() -> None:  # type: ignore[misc]
        s = sample("switch", dist.Bernoulli(_t(0.4)[0]))
        with plate("n", 2):
            z = sample("z", _normal(2 * s))
            sample("x", _normal(z, 0.5), obs=_t(0.8, 1.5))

    def guide() -> None:  # type: ignore[misc]
        s = sample("switch", dist.Bernoulli(logits=_scalar("t", 0.3)))
        with plate("n", 2):
            sample("z", dist.Normal(_logits("m", 0.5, 1.0) + 0.3 * s, _t(0.6)[0]))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        q = torch.sigmoid(p["t"])
        total = torch.zeros((), dtype=torch.float64)
        for s, weight in ((1.0, q), (0.0, 1 - q)):
            m, v = p["m"] + 0.3 * s, _t(0.36)[0]
            likelihood = -((_t(0.8, 1.5) - m).square() + v) / (2 * 0.25) - _t(0.5)[0].log() - 0.9189385332046727
            kl = kl_divergence(dist.Normal(m, v.sqrt()), _normal(2 * s))
            prior = _t(0.4)[0].log() if s else _t(0.6)[0].log()
            total = total + weight * ((likelihood - kl).sum() + prior - weight.log())
        return total
