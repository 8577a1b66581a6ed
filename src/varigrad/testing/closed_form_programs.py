"""Programs of the registry whose bounds are computed in closed form or by quadrature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from varigrad import distributions as dist
from varigrad.language.plates import plate
from varigrad.language.primitives import param, sample
from varigrad.testing.registered_program import Case, adding, f64, logits, normal, scalar

CLOSED: dict[str, Case] = {}
_add = adding(CLOSED)


def _grid(low: float, high: float, points: int = 20_001) -> Tensor:
    return torch.linspace(low, high, points, dtype=torch.float64)


def _integral(q: Any, f: Tensor, z: Tensor) -> Tensor:
    log_q = q.log_prob(z)
    return torch.trapezoid(log_q.exp() * (f - log_q), z)


@_add("normal", "Normal")
class _Normal:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", normal(0.0))
        sample("x", normal(z + torch.sin(z)), obs=f64(0.8)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Normal(scalar("m", 0.3), scalar("s", 0.8, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        z = _grid(-12, 12)
        f = normal(0.0).log_prob(z) + normal(z + torch.sin(z)).log_prob(f64(0.8)[0])
        return _integral(dist.Normal(p["m"], p["s"]), f, z)


@_add("gamma", "Gamma")
class _Gamma:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Gamma(f64(2.0)[0], f64(1.0)[0]))
        sample("x", dist.Poisson(z), obs=f64(3.0)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Gamma(scalar("a", 2.5, constraints.positive), scalar("b", 1.2, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        q = dist.Gamma(p["a"], p["b"])
        mean_log = torch.digamma(p["a"]) - p["b"].log()
        likelihood = 3 * mean_log - q.mean - torch.lgamma(f64(4.0)[0])
        return likelihood - kl_divergence(q, dist.Gamma(f64(2.0)[0], f64(1.0)[0]))


@_add("rejection_gamma", "RejectionGamma")
class _RejectionGamma:
    model = _Gamma.model

    def guide() -> None:  # type: ignore[misc]
        a, b = scalar("a", 1.5, constraints.positive), scalar("b", 1.2, constraints.positive)
        sample("z", dist.RejectionGamma(a, b))

    exact = _Gamma.exact


@_add("beta", "Beta")
class _Beta:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Beta(f64(10.0)[0], f64(10.0)[0]))
        with plate("n", 10):
            sample("x", dist.Bernoulli(z), obs=f64(1, 1, 1, 1, 1, 1, 0, 0, 0, 0))

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Beta(scalar("a", 15.0, constraints.positive), scalar("b", 15.0, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        a, b = p["a"], p["b"]
        both = torch.digamma(a + b)
        likelihood = 6 * (torch.digamma(a) - both) + 4 * (torch.digamma(b) - both)
        return likelihood - kl_divergence(dist.Beta(a, b), dist.Beta(f64(10.0)[0], f64(10.0)[0]))


@_add("dirichlet", "Dirichlet")
class _Dirichlet:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Dirichlet(f64(2.0, 2.0, 2.0)))
        with plate("n", 4):
            sample("x", dist.Categorical(z), obs=torch.tensor([0, 1, 1, 2]))

    def guide() -> None:  # type: ignore[misc]
        sample(
            "z",
            dist.Dirichlet(param("c", lambda: f64(2.0, 3.0, 1.5), constraints.independent(constraints.positive, 1))),
        )

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        c = p["c"]
        mean_log = torch.digamma(c) - torch.digamma(c.sum())
        return (mean_log * f64(1.0, 2.0, 1.0)).sum() - kl_divergence(
            dist.Dirichlet(c), dist.Dirichlet(f64(2.0, 2.0, 2.0))
        )


@_add("poisson", "Poisson")
class _Poisson:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Poisson(f64(2.0)[0]))
        sample("x", normal((1 + z).sqrt()), obs=f64(2.2)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Poisson(scalar("r", 3.0, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        z = torch.arange(80, dtype=torch.float64)
        log_q = dist.Poisson(p["r"]).log_prob(z)
        f = dist.Poisson(f64(2.0)[0]).log_prob(z) + normal((1 + z).sqrt()).log_prob(f64(2.2)[0])
        result: Tensor = (log_q.exp() * (f - log_q)).sum()
        return result


@_add("exponential", "Exponential")
class _Exponential:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Exponential(f64(1.0)[0]))
        sample("x", dist.Poisson(z), obs=f64(2.0)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Exponential(scalar("b", 0.7, constraints.positive)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        rate = p["b"]
        likelihood = 2 * (torch.digamma(f64(1.0)[0]) - rate.log()) - 1 / rate - torch.lgamma(f64(3.0)[0])
        return likelihood - kl_divergence(dist.Exponential(rate), dist.Exponential(f64(1.0)[0]))


@_add("event_of_normals", "Normal event")
class _EventOfNormals:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Normal(f64(0.0, 0.5), f64(1.0)).to_event(1))
            sample("x", normal(z[..., 0] * z[..., 1]), obs=f64(0.8, -0.4))

    def guide() -> None:  # type: ignore[misc]
        scale = param("s", lambda: f64(0.8, 0.5), constraints.positive)
        with plate("n", 2):
            sample(
                "z",
                dist.Normal(param("m", lambda: torch.stack([f64(0.3, -0.6), f64(0.0, 0.9)])), scale).to_event(1),
            )

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        m, v = p["m"], p["s"].square()
        mean, square = m.prod(-1), (m.square() + v).prod(-1)
        x = f64(0.8, -0.4)
        likelihood = -0.5 * (x.square() - 2 * x * mean + square) - 0.9189385332046727
        prior = dist.Normal(f64(0.0, 0.5), f64(1.0))
        return likelihood.sum() - kl_divergence(dist.Normal(m, p["s"]), prior).sum()


def _counted(q: Any, prior: Any) -> Tensor:
    """The bound of a program that counts, with a Normal around the count's square root."""
    z = torch.arange(400, dtype=torch.float64)
    log_q = q.log_prob(z)
    f = prior.log_prob(z) + normal((1 + z).sqrt()).log_prob(f64(2.2)[0])
    result: Tensor = (log_q.exp() * (f - log_q)).sum()
    return result


@_add("geometric", "Geometric")
class _Geometric:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Geometric(f64(0.3)[0]))
        sample("x", normal((1 + z).sqrt()), obs=f64(2.2)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Geometric(scalar("p", 0.4, constraints.unit_interval)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        return _counted(dist.Geometric(p["p"]), dist.Geometric(f64(0.3)[0]))


@_add("negative_binomial", "NegativeBinomial")
class _NegativeBinomial:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.NegativeBinomial(f64(2.0)[0], f64(0.5)[0]))
        sample("x", normal((1 + z).sqrt()), obs=f64(2.2)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.NegativeBinomial(f64(2.5)[0], logits=scalar("t", -0.2)))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        return _counted(
            dist.NegativeBinomial(f64(2.5)[0], logits=p["t"]),
            dist.NegativeBinomial(f64(2.0)[0], f64(0.5)[0]),
        )


@_add("plate_of_normals_under_a_switch", "Normal")
class _Switch:
    def model() -> None:  # type: ignore[misc]
        s = sample("switch", dist.Bernoulli(f64(0.4)[0]))
        with plate("n", 2):
            z = sample("z", normal(2 * s))
            sample("x", normal(z, 0.5), obs=f64(0.8, 1.5))

    def guide() -> None:  # type: ignore[misc]
        s = sample("switch", dist.Bernoulli(logits=scalar("t", 0.3)))
        with plate("n", 2):
            sample("z", dist.Normal(logits("m", 0.5, 1.0) + 0.3 * s, f64(0.6)[0]))

    def exact(p: dict[str, Tensor]) -> Tensor:  # type: ignore[misc]
        q = torch.sigmoid(p["t"])
        total = torch.zeros((), dtype=torch.float64)
        for s, weight in ((1.0, q), (0.0, 1 - q)):
            m, v = p["m"] + 0.3 * s, f64(0.36)[0]
            likelihood = -((f64(0.8, 1.5) - m).square() + v) / (2 * 0.25) - f64(0.5)[0].log() - 0.9189385332046727
            kl = kl_divergence(dist.Normal(m, v.sqrt()), normal(2 * s))
            prior = f64(0.4)[0].log() if s else f64(0.6)[0].log()
            total = total + weight * ((likelihood - kl).sum() + prior - weight.log())
        return total
