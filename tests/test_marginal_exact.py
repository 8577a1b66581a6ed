"""The exact bound with sites summed out, by brute force, and the mean of estimators' gradients beside such sites."""

import math

import pytest
import torch
from marginal_programs.programs import Programs
from marginal_programs.reference import bound_by_brute_force
from marginal_programs.specs import random_spec

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import ARM, DisARM, Enumerate, LeaveOneOut, MovingAverage, Score, SumAndSample, UnorderedSet
from varigrad.gradients.outcomes import NotEnumerable
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

F64 = torch.float64
LOCS = torch.tensor([-1.0, 0.3, 2.0], dtype=F64)
DATA = torch.tensor([0.4, -1.2, 1.9], dtype=F64)


def number(name, value):
    return vg.param(name, torch.tensor(value, dtype=F64))


def observe(name, loc, data):
    vg.sample(name, dist.Normal(loc, 1.0), obs=data)


def logits(*parts):
    return torch.stack(torch.broadcast_tensors(*parts), -1)


def coins(count, plate):
    """A guide of coins, in a plate or one by one."""

    def guide():
        if plate:
            with vg.plate("rows", count):
                vg.sample("b", dist.Bernoulli(logits=number("q", 0.4) * torch.ones(count, dtype=F64)))
        else:
            for i in range(count):
                vg.sample(f"b{i}", dist.Bernoulli(logits=number(f"q{i}", 0.4 - i)))

    return guide


def coin_above_choice():
    """A choice in each row that depends on a coin of the guide."""
    b = vg.sample("b0", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
    with vg.plate("rows", 3):
        k = vg.sample("k", dist.Categorical(logits=logits(0 * b, b * number("s", 0.7), 1 - b)))
        observe("x", LOCS[k] * number("t", 1.2), DATA)


def coin_below_choice():
    """A coin of the guide whose prior depends on a choice."""
    k = vg.sample("k", dist.Categorical(logits=LOCS))
    b = vg.sample("b0", dist.Bernoulli(logits=LOCS[k] * number("s", 0.7)))
    observe("x", b * number("t", 1.2), DATA[0])


def coins_beside_choices():
    """A coin and a choice in each row."""
    with vg.plate("rows", 2):
        b = vg.sample("b", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
        k = vg.sample("k", dist.Categorical(logits=logits(0 * b, b * number("s", 0.7))))
        observe("x", LOCS[k] + b * number("t", 1.2), DATA[:2])


def coins_below_one_choice():
    """Coins in rows, all of which depend on one choice."""
    k = vg.sample("k", dist.Categorical(logits=LOCS))
    with vg.plate("rows", 2):
        b = vg.sample("b", dist.Bernoulli(logits=LOCS[k] * number("s", 0.7)))
        observe("x", LOCS[k] * number("t", 1.2) + b, DATA[:2])


def chain_of_both():
    """Coins of the guide and choices by turns."""
    b = vg.sample("b0", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
    k = vg.sample("k", dist.Bernoulli(logits=2 * b - number("s", 0.7)))
    c = vg.sample("b1", dist.Bernoulli(logits=1.5 * k - 0.6))
    j = vg.sample("j", dist.Bernoulli(logits=1.5 * c - k))
    observe("x", j * number("t", 1.2), DATA[0])


def choices_that_read_all_coins():
    """Choices in rows, each of which depends on the coins of all rows."""
    with vg.plate("rows", 2):
        b = vg.sample("b", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
        heads = b.sum(-1, keepdim=True)
        k = vg.sample("k", dist.Categorical(logits=logits(0 * heads, heads * number("s", 0.7))))
        observe("x", LOCS[k] * number("t", 1.2), DATA[:2])


def two_choices_in_a_row():
    """Two choices in each row, the one given the other, both observed."""
    b = vg.sample("b0", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
    with vg.plate("rows", 3):
        k = vg.sample("k", dist.Categorical(logits=LOCS))
        j = vg.sample("j", dist.Bernoulli(logits=LOCS[k] * number("s", 0.7)))
        observe("x", LOCS[k] * number("t", 1.2), DATA)
        observe("y", j - b, DATA + 1)


def minibatch():
    """Choices in a minibatch below a coin of the guide."""
    b = vg.sample("b0", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
    with vg.plate("rows", 3, subsample_size=2):
        k = vg.sample("k", dist.Categorical(logits=logits(0 * b, b * number("s", 0.7), 1 - b)))
        observe("x", LOCS[k] * number("t", 1.2), vg.subsample(DATA))


def masked_and_scaled():
    """A mask on some of the choices, a scale around everything, two unconnected sums."""
    b = vg.sample("b0", dist.Bernoulli(torch.tensor(0.3, dtype=F64)))
    with vg.plate("rows", 3), vg.handlers.mask(mask=torch.tensor([True, False, True])):
        k = vg.sample("k", dist.Categorical(logits=logits(0 * b, b * number("s", 0.7))))
    j = vg.sample("j", dist.Bernoulli(logits=b))
    with vg.plate("rows", 3):
        observe("x", LOCS[k] * number("t", 1.2), DATA)
    observe("y", j * 2.0 - b, DATA[1])


def scaled(program):
    return lambda: vg.handlers.scale(program, scale=1.7)()


PROGRAMS = {
    "a coin above a choice": (coin_above_choice, coins(1, False)),
    "a coin below a choice": (coin_below_choice, coins(1, False)),
    "coins beside choices": (coins_beside_choices, coins(2, True)),
    "coins below one choice": (coins_below_one_choice, coins(2, True)),
    "coins and choices by turns": (chain_of_both, coins(2, False)),
    "choices that read all coins": (choices_that_read_all_coins, coins(2, True)),
    "two choices in a row": (two_choices_in_a_row, coins(1, False)),
    "a minibatch": (minibatch, coins(1, False)),
    "masks": (masked_and_scaled, coins(1, False)),
    "a scale": (scaled(masked_and_scaled), scaled(coins(1, False))),
}
ESTIMATORS = {
    "score": Score(),
    "score with a baseline": Score(MovingAverage()),
    "leave one out": LeaveOneOut(2),
    "enumerate": Enumerate(),
    "disarm": DisARM(),
    "arm": ARM(),
    "sum and sample": SumAndSample(1),
    "unordered set": UnorderedSet(2),
}
SHARED = {"coins below one choice", "choices that read all coins"}
"""Elements of a plate have a cost in common, which these estimators refuse."""
BY_ELEMENT = {"enumerate", "sum and sample", "unordered set"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_mean_of_the_gradient_is_exact(program):
    for name in ESTIMATORS:
        if not (program in SHARED and name in BY_ELEMENT):
            check(program, name, None)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_mean_of_the_gradient_is_exact_in_a_loop(program):
    for name in ESTIMATORS:
        if not (program in SHARED and name in BY_ELEMENT):
            check(program, name, False)


def check(program, name, vectorize):
    """Hold an estimator to the exact gradient."""
    model, guide = PROGRAMS[program]
    bound = vg.ELBO(estimators={"b*": ESTIMATORS[name]}, marginal=True, vectorize=vectorize)(model, guide)
    value, exact = exact_gradient(bound)
    found = expected_gradient(bound)
    assert found.value == pytest.approx(value, abs=1e-9), name
    assert largest_difference(found.mean, exact) < 1e-9, name
    assert all(float(gradient.abs().max()) > 1e-6 for gradient in exact.values()), name


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("estimator", ["score", "leave one out", "disarm"])
def test_particles(estimator, vectorize):
    model, guide = PROGRAMS["a coin above a choice"]
    made = {"b*": ESTIMATORS[estimator]}
    bound = vg.ELBO(estimators=made, marginal=True, particles=2, vectorize=vectorize)(model, guide)
    assert largest_difference(expected_gradient(bound).mean, exact_gradient(bound)[1]) < 1e-9


def test_two_computations_by_brute_force_agree():
    compared = 0
    for seed in range(200, 300):
        spec = random_spec(seed, 32, 4, 4)
        if any(s.name.startswith("g") for s in spec.sites) or set(spec.copies.values()) != {1} or spec.particles > 1:
            continue
        programs = Programs(spec)
        bound = vg.ELBO(estimators={"*": Score()}, marginal=True)(programs.model, programs.guide)
        wanted = float(bound_by_brute_force(spec, bound.owner.constrained_leaves()).detach())
        assert exact_gradient(bound)[0] == pytest.approx(wanted, abs=1e-9), spec
        compared += 1
    assert compared > 10


def test_a_scale_inside_of_a_sum_is_no_brute_force():
    def model():
        k = vg.sample("k", dist.Categorical(logits=LOCS))
        with vg.plate("rows", 3, subsample_size=2):
            observe("x", LOCS[k] * number("t", 1.2), vg.subsample(DATA))

    with pytest.warns(vg.objectives.BiasWarning):
        bound = vg.ELBO(marginal=True)(model, lambda: None)
    with pytest.raises(NotEnumerable, match="a minibatch is scaled inside a sum over values"):
        exact_gradient(bound)


def test_too_many_joint_values():
    def model():
        with vg.plate("rows", 20):
            vg.sample("k", dist.Bernoulli(logits=number("s", 0.3)))

    with pytest.raises(NotEnumerable, match="summed out have more than 1000 joint values"):
        exact_gradient(vg.ELBO(marginal=True)(model, lambda: None), limit=1000)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_importance_weighted_bounds(alpha):
    r"""The weights of particles are :math:`\sum_k p(x, k, z) / q(z)`."""
    model, guide = PROGRAMS["a coin above a choice"]
    one = vg.ELBO(estimators={"*": Score()}, marginal=True)(model, guide)
    two = vg.Renyi(alpha=alpha, particles=2, estimators={"*": Score()}, marginal=True)(model, guide)

    def of(probabilities, log_weights):
        pair = torch.stack(torch.broadcast_tensors(log_weights.unsqueeze(0), log_weights.unsqueeze(1)))
        bound = (((1 - alpha) * pair).logsumexp(0) - math.log(2)) / (1 - alpha)
        return (probabilities.unsqueeze(0) * probabilities.unsqueeze(1) * bound).sum()

    value, exact = exact_gradient(one, of=of)
    found = expected_gradient(two)
    assert found.value == pytest.approx(value, abs=1e-9)
    assert largest_difference(found.mean, exact) < 1e-9
