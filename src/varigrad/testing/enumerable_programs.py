"""Programs of the registry with finite guides, whose bounds are computed by enumeration."""

from __future__ import annotations

import torch

from varigrad import distributions as dist
from varigrad.language import handlers
from varigrad.language.plates import plate
from varigrad.language.primitives import factor, param, sample, subsample
from varigrad.testing.registered_program import Case, adding, f64, logits, normal, scalar

FINITE: dict[str, Case] = {}
_add = adding(FINITE)


@_add("bernoulli", "Bernoulli")
class _Bernoulli:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Bernoulli(f64(0.3)[0]))
        sample("x", normal(2 * z - 0.5), obs=f64(0.8)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Bernoulli(logits=logits("t", 0.7)[0]))


@_add("zero_logits", "Bernoulli")
class _ZeroLogits:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(f64(0.3, 0.5)))
            sample("x", normal(z), obs=f64(0.8, 0.5))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            sample("z", dist.Bernoulli(logits=logits("t", 0.0, 0.0)))


@_add("extreme_probabilities", "Bernoulli")
class _Extreme:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(f64(0.9, 0.01)))
            sample("x", normal(z * f64(3.0, -2.0)), obs=f64(2.0, 0.5))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            sample("z", dist.Bernoulli(logits=logits("t", 6.0, -5.0)))


@_add("categorical", "Categorical")
class _Categorical:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.Categorical(f64(0.2, 0.5, 0.3)))
        sample("x", normal(f64(-1.0, 0.0, 2.0)[z]), obs=f64(0.4)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.Categorical(logits=logits("t", 0.1, -0.4, 0.9)))


@_add("mixture", "Categorical")
class _Mixture:
    def model() -> None:  # type: ignore[misc]
        locs = param("locs", lambda: f64(-1.0, 0.5, 2.0))
        with plate("data", 2):
            z = sample("z", dist.Categorical(f64(0.2, 0.5, 0.3)))
            sample("x", normal(locs[z], 0.7), obs=f64(0.4, -1.3))

    def guide() -> None:  # type: ignore[misc]
        with plate("data", 2):
            sample(
                "z",
                dist.Categorical(logits=param("t", lambda: torch.stack([f64(0.1, -0.4, 0.9), f64(1.0, 0.0, 0.0)]))),
            )


@_add("one_hot", "OneHotCategorical")
class _OneHot:
    def model() -> None:  # type: ignore[misc]
        z = sample("z", dist.OneHotCategorical(f64(0.2, 0.5, 0.3)))
        sample("x", normal((z * f64(-1.0, 0.0, 2.0)).sum(-1)), obs=f64(0.4)[0])

    def guide() -> None:  # type: ignore[misc]
        sample("z", dist.OneHotCategorical(logits=logits("t", 0.1, -0.4, 0.9)))


@_add("chain", "Bernoulli")
class _Chain:
    def model() -> None:  # type: ignore[misc]
        before = f64(0.0)[0]
        for i in range(3):
            before = sample(f"z{i}", dist.Bernoulli(0.2 + 0.5 * before))
            if i == 2:
                sample("x", normal(before), obs=f64(0.9)[0])

    def guide() -> None:  # type: ignore[misc]
        t, w = logits("t", 0.3, -0.5, 0.8), scalar("w", 0.7)
        before = f64(0.0)[0]
        for i in range(3):
            before = sample(f"z{i}", dist.Bernoulli(logits=t[i] + w * before))


@_add("categorical_chain", "Categorical")
class _CategoricalChain:
    def model() -> None:  # type: ignore[misc]
        a = sample("za", dist.Categorical(f64(0.3, 0.7)))
        b = sample("zb", dist.Categorical(torch.stack([f64(0.1, 0.9), f64(0.8, 0.2)])[a]))
        sample("c", dist.Categorical(torch.stack([f64(0.5, 0.5), f64(0.6, 0.4)])[b]), obs=torch.tensor(0))

    def guide() -> None:  # type: ignore[misc]
        a = sample("za", dist.Categorical(logits=logits("a", 0.2, -0.3)))
        table = param("b", lambda: torch.stack([f64(0.4, -0.1), f64(0.0, 0.6)]))
        sample("zb", dist.Categorical(logits=table[a]))


@_add("plate_under_global", "Bernoulli")
class _PlateUnderGlobal:
    def model() -> None:  # type: ignore[misc]
        g = sample("zg", dist.Bernoulli(f64(0.4)[0]))
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(f64(0.3, 0.6) * (0.5 + 0.5 * g)))
            sample("x", normal(z + g), obs=f64(0.8, -0.2))

    def guide() -> None:  # type: ignore[misc]
        g = sample("zg", dist.Bernoulli(logits=logits("g", 0.4)[0]))
        with plate("n", 2):
            sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3) + 0.5 * g))


@_add("nested_plates", "Bernoulli", heavy=True)
class _NestedPlates:
    def model() -> None:  # type: ignore[misc]
        with plate("rows", 2, dim=-2):
            r = sample("zr", dist.Bernoulli(f64(0.4)[0]))
            with plate("columns", 2, dim=-1):
                z = sample("z", dist.Bernoulli(0.3 + 0.4 * r))
                sample("x", normal(z - r), obs=torch.stack([f64(0.8, -0.2), f64(0.1, 1.3)]))

    def guide() -> None:  # type: ignore[misc]
        with plate("rows", 2, dim=-2):
            r = sample("zr", dist.Bernoulli(logits=logits("r", 0.4, -0.7).unsqueeze(-1)))
            with plate("columns", 2, dim=-1):
                sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3) + 0.5 * r))


@_add("subsampled_plate", "Bernoulli")
class _SubsampledPlate:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 3, subsample_size=2):
            z = sample("z", dist.Bernoulli(subsample(f64(0.3, 0.6, 0.2))))
            sample("x", normal(z), obs=subsample(f64(0.8, -0.2, 0.4)))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 3, subsample_size=2):
            sample("z", dist.Bernoulli(logits=param("t", lambda: f64(0.7, -0.3, 0.2), event_dim=0)))


@_add("sequential_plate", "Bernoulli")
class _SequentialPlate:
    def model() -> None:  # type: ignore[misc]
        g = sample("zg", dist.Bernoulli(f64(0.4)[0]))
        for i in plate("n", 2):
            z = sample(f"z{i}", dist.Bernoulli(0.3 + 0.4 * g))
            sample(f"x{i}", normal(z), obs=f64(0.8, -0.2)[i])

    def guide() -> None:  # type: ignore[misc]
        sample("zg", dist.Bernoulli(logits=logits("g", 0.4)[0]))
        for i in plate("n", 2):
            sample(f"z{i}", dist.Bernoulli(logits=logits("t", 0.7, -0.3)[i]))


@_add("plate_entered_twice", "Bernoulli", broadcasts=False)
class _PlateEnteredTwice:
    def model() -> None:  # type: ignore[misc]
        n = plate("n", 2)
        with n:
            z = sample("z", dist.Bernoulli(f64(0.3, 0.6)))
        g = sample("zg", dist.Bernoulli(0.2 + 0.3 * z.sum(-1)))
        with n:
            sample("x", normal(g.unsqueeze(-1) * f64(1.0, -2.0)), obs=f64(0.8, -1.2))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3)))
        sample("zg", dist.Bernoulli(logits=scalar("g", 0.4) + z.sum(-1)))


@_add("control_flow", "Bernoulli", broadcasts=False)
class _ControlFlow:
    def model() -> None:  # type: ignore[misc]
        a = sample("za", dist.Bernoulli(f64(0.4)[0]))
        b = sample("zb", dist.Bernoulli(f64(0.6)[0]))
        loc = f64(1.0)[0] * b if a > 0 else f64(-1.5)[0]
        sample("x", normal(loc), obs=f64(0.3)[0])

    def guide() -> None:  # type: ignore[misc]
        a = sample("za", dist.Bernoulli(logits=logits("a", 0.4)[0]))
        t = logits("t", 0.9, -0.6)
        sample("zb", dist.Bernoulli(logits=t[0] if a > 0 else t[1]))


@_add("sites_that_come_and_go", "Bernoulli", broadcasts=False)
class _ComeAndGo:
    def model() -> None:  # type: ignore[misc]
        a = sample("za", dist.Bernoulli(f64(0.4)[0]))
        loc = f64(0.0)[0]
        if a > 0:
            loc = sample("zb", dist.Bernoulli(f64(0.6)[0])) * 2
        sample("x", normal(loc), obs=f64(0.9)[0])

    def guide() -> None:  # type: ignore[misc]
        t = logits("t", 0.4, -0.6)
        if sample("za", dist.Bernoulli(logits=t[0])) > 0:
            sample("zb", dist.Bernoulli(logits=t[1]))


@_add("masked", "Bernoulli", broadcasts=False)
class _Masked:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 3), handlers.mask(mask=torch.tensor([True, False, True])):
            z = sample("z", dist.Bernoulli(f64(0.3, 0.6, 0.2)))
            sample("x", normal(z), obs=f64(0.8, torch.nan, 0.4))
        sample("y", normal(z.sum(-1)), obs=f64(1.1)[0])

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 3), handlers.mask(mask=torch.tensor([True, False, True])):
            sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3, 0.2)))


@_add("scaled", "Bernoulli")
class _Scaled:
    def model() -> None:  # type: ignore[misc]
        with handlers.scale(scale=2.5):
            a = sample("za", dist.Bernoulli(f64(0.3)[0]))
        b = sample("zb", dist.Bernoulli(0.3 + 0.4 * a))
        with handlers.scale(scale=0.5):
            sample("x", normal(b), obs=f64(0.8)[0])
        factor("f", 0.7 * a * b)

    def guide() -> None:  # type: ignore[misc]
        t = logits("t", 0.7, -0.3)
        with handlers.scale(scale=2.5):
            a = sample("za", dist.Bernoulli(logits=t[0]))
        sample("zb", dist.Bernoulli(logits=t[1] * (1 - a)))


@_add("event", "Bernoulli event", heavy=True)
class _Event:
    def model() -> None:  # type: ignore[misc]
        w = param("w", lambda: f64(0.5, -1.0))
        z = sample("z", dist.Bernoulli(f64(0.3, 0.6)).to_event(1))
        h = sample("zh", dist.Bernoulli(logits=f64(0.4, -0.4) + (z * w).sum(-1, keepdim=True)).to_event(1))
        sample("x", normal((h * w).sum(-1)), obs=f64(0.3)[0])

    def guide() -> None:  # type: ignore[misc]
        z = sample("z", dist.Bernoulli(logits=logits("t", 0.7, -0.3)).to_event(1))
        sample("zh", dist.Bernoulli(logits=logits("h", 0.1, 0.6) * (z - 0.5)).to_event(1))


@_add("binomial", "Binomial")
class _Binomial:
    def model() -> None:  # type: ignore[misc]
        with plate("n", 2):
            z = sample("z", dist.Binomial(3, f64(0.5, 0.4)))
            sample("x", normal((1 + z).sqrt()), obs=f64(1.8, 1.1))

    def guide() -> None:  # type: ignore[misc]
        with plate("n", 2):
            sample("z", dist.Binomial(3, logits=logits("t", 0.3, -2.0)))
