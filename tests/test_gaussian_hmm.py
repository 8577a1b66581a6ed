"""Linear chains: Gaussian ones against the dense joint Normal, Student-t ones against the dense Student-t, draws."""

import itertools

import numpy as np
import pytest
import torch
from torch import distributions as td

from varigrad import distributions as dist
from varigrad.distributions import Source

t = torch.tensor
HIDDEN, SEEN = 2, 3


def normal(rng, *shape, diagonal=False):
    """A Gaussian law of noise."""
    loc = torch.randn(shape, generator=rng, dtype=torch.float64)
    if diagonal:
        return dist.Normal(loc, 0.5 + torch.rand(shape, generator=rng, dtype=torch.float64)).to_event(1)
    root = torch.randn(*shape, shape[-1], generator=rng, dtype=torch.float64)
    return dist.MultivariateNormal(loc, root @ root.mT + 0.3 * torch.eye(shape[-1], dtype=torch.float64))


def parts_of(steps, varying, diagonal=False, seed=0, hidden=HIDDEN, seen=SEEN):
    """initial_dist, transition_matrix, transition_dist, observation_matrix, observation_dist."""
    rng = torch.Generator().manual_seed(seed)
    lead = (steps,) if varying else ()
    return (
        normal(rng, hidden, diagonal=diagonal),
        torch.randn(*lead, hidden, hidden, generator=rng, dtype=torch.float64),
        normal(rng, *lead, hidden, diagonal=diagonal),
        torch.randn(*lead, hidden, seen, generator=rng, dtype=torch.float64),
        normal(rng, *lead, seen, diagonal=diagonal),
    )


def dense(parts, steps):
    """Mean and covariance of all states `1, ..., T`, then all observations, built noise by noise."""

    def moments(law):
        return law.mean, law.covariance_matrix if hasattr(law, "covariance_matrix") else law.variance.diag_embed()

    def at(tensor, k, dims):
        return tensor[k] if tensor.dim() > dims else tensor

    initial, move, noise, look, error = parts
    hidden, seen = look.shape[-2:]
    n = hidden * (1 + steps) + seen * steps
    laws = [moments(initial)]
    laws += [tuple(at(m, k, d) for m, d in zip(moments(noise), (1, 2), strict=True)) for k in range(steps)]
    laws += [tuple(at(m, k, d) for m, d in zip(moments(error), (1, 2), strict=True)) for k in range(steps)]
    mean, covariance = torch.cat([m for m, _ in laws]), torch.block_diag(*[c for _, c in laws])
    state = torch.eye(n, dtype=torch.float64)[:hidden]
    states, views = [], []
    for k in range(steps):
        own = torch.eye(n, dtype=torch.float64)[hidden * (1 + k) : hidden * (2 + k)]
        state = at(move, k, 2).mT @ state + own
        states.append(state)
        start = hidden * (1 + steps) + seen * k
        views.append(at(look, k, 2).mT @ state + torch.eye(n, dtype=torch.float64)[start : start + seen])
    every = torch.cat([*states, *views])
    return every @ mean, every @ covariance @ every.mT


def conditioned(parts, steps, value, observed):
    """The law of the states given the observations, and that of the observations, by dense matrices."""
    mean, covariance = dense(parts, steps)
    hidden = parts[1].shape[-1] * steps
    kept = observed[:, None].expand(value.shape).flatten()
    z, y = slice(0, hidden), torch.arange(hidden, len(mean))[kept]
    gain = torch.linalg.solve(covariance[y][:, y], covariance[y][:, z]).mT
    seen = value.flatten()[kept]
    states = mean[z] + gain @ (seen - mean[y]), covariance[z, z] - gain @ covariance[y][:, z]
    return states, td.MultivariateNormal(mean[y], covariance[y][:, y]), seen


CASES = list(itertools.product([1, 2, 3, 6, 7], [False, True], [False, True]))


@pytest.mark.parametrize("missing", [False, True], ids=["all", "missing"])
@pytest.mark.parametrize(("steps", "varying", "diagonal"), CASES)
def test_the_dense_joint_normal(steps, varying, diagonal, missing):
    parts = parts_of(steps, varying, diagonal)
    value = torch.randn(steps, SEEN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    observed = torch.arange(steps) % 3 != 1 if missing else torch.ones(steps, dtype=torch.bool)
    (mean, covariance), law, seen = conditioned(parts, steps, value, observed)
    if missing:
        value[~observed] = torch.nan
    d = dist.GaussianHMM(*parts, duration=steps, mask=observed if missing else None)
    torch.testing.assert_close(d.log_prob(value), law.log_prob(seen))
    found, spread = d.smooth(value)
    torch.testing.assert_close(found.flatten(), mean)
    blocks = covariance.reshape(steps, HIDDEN, steps, HIDDEN).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    torch.testing.assert_close(spread, blocks)
    last = d.filter(value)
    torch.testing.assert_close(last.loc, mean[-HIDDEN:])
    torch.testing.assert_close(last.covariance_matrix, blocks[-1])


@pytest.mark.parametrize("missing", [False, True], ids=["all", "missing"])
@pytest.mark.parametrize(("steps", "varying"), [(1, True), (4, False), (5, True)])
def test_the_dense_student(steps, varying, missing):
    parts = parts_of(steps, varying)
    concentration, rate = t([1.7, 2.5], dtype=torch.float64)
    value = torch.randn(steps, SEEN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    observed = torch.arange(steps) % 3 != 1 if missing else torch.ones(steps, dtype=torch.bool)
    (mean, covariance), law, seen = conditioned(parts, steps, value, observed)
    # With all precisions multiplied by a Gamma(a, b): Student-t with 2 a degrees and covariances multiplied by b / a.
    student = dist.MultivariateStudentT(
        2 * concentration, law.loc, torch.linalg.cholesky(law.covariance_matrix * rate / concentration)
    )
    scale = dist.Gamma(concentration, rate)
    d = dist.GammaGaussianHMM(scale, *parts, duration=steps, mask=observed if missing else None)
    torch.testing.assert_close(d.log_prob(value), student.log_prob(seen))
    factor, last = d.filter(value)
    squares = (seen - law.loc) @ torch.linalg.solve(law.covariance_matrix, seen - law.loc)
    torch.testing.assert_close(factor.concentration, concentration + len(seen) / 2)
    torch.testing.assert_close(factor.rate, rate + squares / 2)
    torch.testing.assert_close(last.loc, mean[-HIDDEN:])
    torch.testing.assert_close(last.covariance_matrix, covariance[-HIDDEN:, -HIDDEN:])
    found, spread = d.smooth(value)
    torch.testing.assert_close(found.flatten(), mean)
    wanted = covariance[-HIDDEN:, -HIDDEN:] * factor.rate / (factor.concentration - 1)
    torch.testing.assert_close(spread[-1], wanted)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", ["gaussian", "gamma"])
def test_gradients(kind, steps):
    rng = torch.Generator().manual_seed(2)
    shapes = [(2,), (2, 2), (2, 2), (2,), (2, 2), (1,), (steps, 1)]
    leaves = [torch.randn(s, generator=rng, dtype=torch.float64).requires_grad_() for s in shapes]

    def density(start, move, root, drift, look_both, offset, value):
        parts = (
            dist.MultivariateNormal(start, torch.eye(2, dtype=torch.float64)),
            move,
            dist.MultivariateNormal(drift, root @ root.mT),
            look_both[:, :1],
            dist.Normal(offset, look_both[0, 1].exp()).to_event(1),
        )
        if kind == "gaussian":
            return dist.GaussianHMM(*parts, duration=steps).log_prob(value)
        return dist.GammaGaussianHMM(dist.Gamma(start[0].exp(), drift[0].exp()), *parts, duration=steps).log_prob(value)

    assert torch.autograd.gradcheck(density, leaves)


def test_transitions_may_be_without_noise():
    """A deterministic chain of more states than observations: no covariance has an inverse."""
    parts = list(parts_of(5, False, seen=1))
    parts[2] = dist.Normal(torch.zeros(HIDDEN, dtype=torch.float64), 0.0).to_event(1)
    value = torch.randn(5, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (mean, _), law, seen = conditioned(parts, 5, value, torch.ones(5, dtype=torch.bool))
    d = dist.GaussianHMM(*parts, duration=5)
    torch.testing.assert_close(d.log_prob(value), law.log_prob(seen))
    torch.testing.assert_close(d.smooth(value)[0].flatten(), mean)


def test_single_precision_keeps_its_digits_far_from_zero():
    """Observations at ten thousand with noise of one: the sum of likelihoods in their natural form would keep none."""
    steps = 200
    rng = torch.Generator().manual_seed(0)
    value = 1e4 + torch.randn(steps, generator=rng, dtype=torch.float64).cumsum(0)
    value = (value + torch.randn(steps, generator=rng, dtype=torch.float64)).float().double()

    def density(dtype):
        one, zero = torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)
        unit = dist.Normal(zero, one).to_event(1)
        start = dist.Normal(one * 1e4, one * 10).to_event(1)
        eye = torch.eye(1, dtype=dtype)
        return dist.GaussianHMM(start, eye, unit, eye, unit, duration=steps).log_prob(value.to(dtype)[:, None])

    exact = density(torch.float64)
    assert (density(torch.float32).double() - exact).abs() < 1e-3 * exact.abs()


def test_batches_are_their_elements():
    rng = torch.Generator().manual_seed(0)
    steps = 5
    initial = normal(rng, 4, 1, HIDDEN)
    move = torch.randn(2, 1, HIDDEN, HIDDEN, generator=rng, dtype=torch.float64)
    noise, error = normal(rng, HIDDEN), normal(rng, 2, steps, SEEN)
    look = torch.randn(HIDDEN, SEEN, generator=rng, dtype=torch.float64)
    mask = torch.rand(4, 1, steps, generator=rng) < 0.6
    scale = dist.Gamma(t([2.0, 3.0], dtype=torch.float64), t(1.5, dtype=torch.float64))
    value = torch.randn(7, 4, 2, steps, SEEN, generator=rng, dtype=torch.float64)
    d = dist.GaussianHMM(initial, move, noise, look, error, mask=mask)
    student = dist.GammaGaussianHMM(scale, initial, move, noise, look, error, mask=mask)
    for whole in (d, student):
        assert (whole.batch_shape, whole.event_shape) == ((4, 2), (steps, SEEN))
        assert whole.log_prob(value).shape == (7, 4, 2)
        assert whole.rsample((3,)).shape == (3, 4, 2, steps, SEEN)
        wide = whole.expand((6, 4, 2))
        assert Source(torch.Generator().manual_seed(0)).draw(wide).shape == (6, 4, 2, steps, SEEN)
        torch.testing.assert_close(wide.log_prob(value[0]), whole.log_prob(value[0]).expand(6, 4, 2))
    assert d.posterior_sample(value[0], (3,)).shape == (3, 4, 2, steps, HIDDEN)
    assert student.filter(value)[0].batch_shape == student.filter(value)[1].batch_shape == (7, 4, 2)
    mean, covariance = d.smooth(value)
    for s, i, j in itertools.product((0, 6), range(4), range(2)):
        first = dist.MultivariateNormal(initial.loc[i, 0], initial.covariance_matrix[i, 0])
        last = dist.MultivariateNormal(error.loc[j], error.covariance_matrix[j])
        one = dist.GaussianHMM(first, move[j], noise, look, last, mask=mask[i, 0])
        torch.testing.assert_close(d.log_prob(value)[s, i, j], one.log_prob(value[s, i, j]))
        torch.testing.assert_close(mean[s, i, j], one.smooth(value[s, i, j])[0])
        torch.testing.assert_close(covariance[s, i, j], one.smooth(value[s, i, j])[1])
        other = dist.GammaGaussianHMM(
            dist.Gamma(scale.concentration[j], scale.rate[j]), first, move[j], noise, look, last, mask=mask[i, 0]
        )
        torch.testing.assert_close(student.log_prob(value)[s, i, j], other.log_prob(value[s, i, j]))


def assert_moments(draws, mean, covariance):
    """Means and covariances of draws, `[draws, n]`, to within six standard errors."""
    deviation = draws - mean
    error = (covariance.diagonal() / len(draws)).sqrt()
    assert torch.all(deviation.mean(0).abs() <= 6 * error + 1e-12)
    products = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    assert torch.all((products.mean(0) - covariance).abs() <= 6 * products.std(0) / len(draws) ** 0.5 + 1e-12)


@pytest.mark.parametrize("varying", [False, True])
def test_draws_have_the_moments_of_the_dense_joint(varying):
    torch.manual_seed(0)
    parts = parts_of(3, varying)
    mean, covariance = dense(parts, 3)
    y = slice(3 * HIDDEN, None)
    for d in (dist.GaussianHMM(*parts, duration=3), dist.LinearHMM(*parts, duration=3)):
        assert_moments(d.rsample((20_000,)).flatten(1), mean[y], covariance[y, y])
    scale = dist.Gamma(t(6.0, dtype=torch.float64), t(4.0, dtype=torch.float64))
    draws = dist.GammaGaussianHMM(scale, *parts, duration=3).rsample((20_000,)).flatten(1)
    assert_moments(draws, mean[y], covariance[y, y] * 4 / 5)  # the mean of 1 / s is 4 / (6 - 1)


def test_posterior_draws_have_the_moments_of_the_posterior():
    torch.manual_seed(0)
    parts = parts_of(4, True)
    value = torch.randn(4, SEEN, dtype=torch.float64)
    observed = t([True, False, True, True])
    (mean, covariance), _, _ = conditioned(parts, 4, value, observed)
    d = dist.GaussianHMM(*parts, mask=observed)
    assert_moments(d.posterior_sample(value, (20_000,)).flatten(1), mean, covariance)
    assert d.rsample_posterior(value).shape == (4, HIDDEN)


def test_draws_carry_gradients():
    parts = parts_of(4, False)
    move = parts[1].clone().requires_grad_()

    def draws(move):
        torch.manual_seed(0)
        return dist.LinearHMM(parts[0], move, *parts[2:], duration=4).rsample()

    assert torch.autograd.gradcheck(draws, [move])


def test_a_linear_chain_takes_any_noise_and_transforms_of_observations():
    heavy = dist.StudentT(3.0, torch.zeros(2), 1.0).to_event(1)
    positive = dist.LogNormal(torch.zeros(1), 1.0).to_event(1)
    d = dist.LinearHMM(heavy, torch.eye(2), heavy, torch.ones(2, 1), positive, duration=6)
    value = d.rsample((5,))
    assert value.shape == (5, 6, 1) and (value > 0).all()
    assert d.support.check(value).all() and not d.support.check(-value).any()
    assert d.has_rsample
    with pytest.raises(NotImplementedError, match="LinearHMM has draws but no density"):
        d.log_prob(value)
    # The transform acts on the sum of prediction and noise.
    still = dist.Normal(torch.zeros(2), 0.0).to_event(1)
    start = dist.Normal(torch.ones(2), 0.0).to_event(1)
    exact = dist.LogNormal(torch.ones(1), 0.0).to_event(1)
    d = dist.LinearHMM(start, torch.eye(2), still, torch.ones(2, 1), exact, duration=2)
    torch.testing.assert_close(d.rsample(), torch.full((2, 1), 3.0).exp())


UNIT = dist.Normal(torch.zeros(2), 1.0).to_event(1)
EYE = torch.eye(2)
BAD = {
    "event": (lambda: dist.GaussianHMM(UNIT, EYE, UNIT, EYE[:, :1], UNIT), r"observation_dist must have .* \(1,\)"),
    "initial": (lambda: dist.LinearHMM(UNIT, EYE, UNIT, torch.ones(3, 2), UNIT), r"initial_dist must have .* \(3,\)"),
    "matrix": (lambda: dist.GaussianHMM(UNIT, torch.ones(2, 1), UNIT, EYE, UNIT), r"transition_matrix must be 2 x 2"),
    "vector": (lambda: dist.GaussianHMM(UNIT, torch.ones(2), UNIT, EYE, UNIT), "transition_matrix must be a matrix"),
    "family": (
        lambda: dist.GaussianHMM(UNIT, EYE, dist.Laplace(torch.zeros(2), 1.0).to_event(1), EYE, UNIT),
        r"transition_dist must be Gaussian \(Normal or MultivariateNormal\), got Laplace",
    ),
    "scale": (lambda: dist.GammaGaussianHMM(UNIT, UNIT, EYE, UNIT, EYE, UNIT), "scale_dist must be a Gamma"),
    "duration": (lambda: dist.GaussianHMM(UNIT, EYE.expand(3, 2, 2), UNIT, EYE, UNIT, duration=2), "have 3 times"),
    "value": (
        lambda: dist.GaussianHMM(UNIT, EYE, UNIT, EYE, UNIT, duration=2).log_prob(torch.zeros(2, 1)),
        r"the shape \[\*batch, 2, 2\], got \[2, 1\]",
    ),
    "draws": (lambda: dist.GaussianHMM(UNIT, EYE, UNIT, EYE, UNIT).rsample(), "say how many to draw by duration="),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_refused_by_name(name):
    make, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_without_a_duration_a_density_takes_any_length():
    d = dist.GaussianHMM(UNIT, EYE, UNIT, EYE, UNIT)
    value = torch.randn(5, 2)
    assert np.isclose(d.log_prob(value), dist.GaussianHMM(UNIT, EYE, UNIT, EYE, UNIT, duration=5).log_prob(value))
