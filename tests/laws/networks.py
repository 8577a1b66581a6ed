"""Networks for control variates."""

import math

import torch
from registry import network

import varigrad as vg
from laws.base import drawn, law, seeded, t, trained
from laws.continuous import mean_by_nodes
from varigrad import distributions as dist
from varigrad.estimators import (
    Lax,
    Relax,
)
from varigrad.testing import PROGRAMS, check_case, exact_gradient, expected_gradient, gradient_of, largest_difference


@law
def a_network_that_knows_nothing_does_not_bias():
    """By quadrature: of two uniform numbers, whose logarithms take many nodes, or of a Normal one."""
    for program, size in (("bernoulli", 1), ("one_hot", 3)):
        case = PROGRAMS[program]
        bound = trained(seeded(vg.ELBO(estimators={"z": Relax(network(size, 5, 1))}), case.model, case.guide), 2)
        if size == 1:
            mean = expected_gradient(bound, nodes=32).mean
            assert largest_difference(mean, exact_gradient(bound)[1]) < 5e-6
        verdict = check_case(Relax(network(size, 5, 1)), program, case, draws=4_000, outcomes=1_000)
        assert verdict.passed, verdict
    case = PROGRAMS["normal"]
    bound = trained(seeded(vg.ELBO(estimators={"z": Lax(network(1, 5, 1))}), case.model, case.guide), 2)
    assert largest_difference(mean_by_nodes(bound, 60), gradient_of(bound, case.exact)[1]) < 1e-7


@law
def networks_learn_to_be_control_variates():
    """From the squared gradient alone, which trains nothing else: a fair coin of 64, and a step in a Normal choice."""

    def coin():
        with vg.plate("n", 64):
            z = vg.sample("z", dist.Bernoulli(logits=t(0.0)))
            vg.factor("f", (z - 0.45).square())

    def step():
        with vg.plate("n", 64):
            z = vg.sample("z", dist.Normal(t(0.2), t(1.0)))
            vg.factor("f", 3.0 + (z > 0).to(z.dtype))

    normal, bernoulli = (lambda m: dist.Normal(m, t(1.0))), (lambda m: dist.Bernoulli(logits=m))
    for model, family, kind, limit in ((coin, bernoulli, Relax, 1e-4), (step, normal, Lax, 0.25)):
        net = network(1, 10, 1)

        def program(family=family, estimator=kind(net)):
            with vg.plate("n", 64):
                start = vg.param("t", torch.full((64,), 0.2 if family is normal else 0.0).double())
                vg.sample("z", family(start), estimator=estimator)

        bound = seeded(vg.ELBO(weights={"z": 0.0}), model, program)
        assert {n for n, _ in bound.named_parameters()} == {"t", *(f"baselines.z.{n}" for n in net.state_dict())}
        adam = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(300):
            adam.zero_grad()
            bound().backward()
            adam.step()
        found = torch.cat([drawn(bound, seed)["t"] for seed in range(40)])
        assert float(found.var()) < limit, (kind, found.var())
        exact = 0.025 if kind is Relax else math.exp(-0.02) / math.sqrt(2 * math.pi)
        assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / len(found) ** 0.5
