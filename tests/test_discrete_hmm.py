"""`DiscreteHMM`: against all paths one by one, in numpy, with gradients by finite differences; and no NaN anywhere."""

import itertools

import numpy as np
import pytest
import torch

from varigrad import distributions as dist
from varigrad.distributions import Source
from varigrad.distributions.hidden_markov import forward_backward
from varigrad.distributions.log_space import log_matmul, log_sum_exp

t = torch.tensor
STATES = 3
LOCS = t([-1.0, 0.5, 2.0], dtype=torch.float64)


@pytest.fixture(params=["scan", "loop"])
def way(request, monkeypatch):
    """Both ways to take the products."""
    if request.param == "loop":
        monkeypatch.setattr(forward_backward, "NUMBERS_IN_A_STEP", 0)


def chain(steps, varying, seed=0, zeros=False):
    """Logits and a value, some transitions impossible if `zeros`."""
    rng = torch.Generator().manual_seed(seed)
    shape = (steps, STATES, STATES) if varying else (STATES, STATES)
    initial = torch.randn(STATES, generator=rng, dtype=torch.float64)
    transition = torch.randn(shape, generator=rng, dtype=torch.float64)
    if zeros:
        initial[0] = -torch.inf
        transition[..., 0, 1] = transition[..., 2, 0] = -torch.inf
    return initial, transition, torch.randn(steps, generator=rng, dtype=torch.float64)


def by_paths(initial, transition, value, observed=None):
    """Every path of states `1, ..., T` with its log-probability together with the observations, by numpy."""
    steps = len(value)
    initial, transition = (np.exp(m.numpy()) for m in (initial, transition))
    initial, transition = initial / initial.sum(), transition / transition.sum(-1, keepdims=True)
    transition = np.broadcast_to(transition, (steps, STATES, STATES))
    seen = -0.5 * (value.numpy()[:, None] - LOCS.numpy()) ** 2 - 0.5 * np.log(2 * np.pi)
    if observed is not None:
        seen = np.where(observed.numpy()[:, None], seen, 0.0)
    found = {}
    for path in itertools.product(range(STATES), repeat=steps):
        p = initial @ transition[0][:, path[0]]
        for k in range(1, steps):
            p *= transition[k][path[k - 1], path[k]]
        with np.errstate(divide="ignore"):
            found[path] = np.log(p) + sum(seen[k][s] for k, s in enumerate(path))
    return found


def hmm(initial, transition, **options):
    return dist.DiscreteHMM(initial, transition, dist.Normal(LOCS, 1.0), **options)


CASES = [
    pytest.param(steps, varying, zeros, id=f"{steps}{' varying' * varying}{' zeros' * zeros}")
    for steps, varying, zeros in [
        (1, True, False), (2, False, True), (3, True, True), (4, False, False), (5, True, False), (6, False, True),
    ]
]  # fmt: skip


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("missing", [False, True], ids=["all", "missing"])
@pytest.mark.parametrize(("steps", "varying", "zeros"), CASES)
def test_all_paths(steps, varying, zeros, missing):
    initial, transition, value = chain(steps, varying, zeros=zeros)
    mask = torch.arange(steps) % 3 != 1 if missing else None
    paths = by_paths(initial, transition, value, mask)
    table = np.array(list(paths.values()))
    total = np.logaddexp.reduce(table)
    if missing:
        value = torch.where(mask, value, torch.nan)
    d = hmm(initial, transition, duration=steps, mask=mask)
    assert d.log_prob(value).item() == pytest.approx(total, rel=1e-12)
    posterior = np.exp(table - total)
    at = np.array(list(paths))
    smooth = np.array([[posterior[at[:, k] == s].sum() for s in range(STATES)] for k in range(steps)])
    np.testing.assert_allclose(d.smooth(value).exp(), smooth, atol=1e-12)
    np.testing.assert_allclose(d.filter(value).probs, smooth[-1], atol=1e-12)
    assert tuple(d.most_probable_path(value).tolist()) == max(paths, key=paths.get)


@pytest.mark.usefixtures("way")
def test_posterior_draws_have_the_posterior_of_paths():
    initial, transition, value = chain(4, True, zeros=True)
    paths = by_paths(initial, transition, value)
    total = np.logaddexp.reduce(list(paths.values()))
    torch.manual_seed(0)
    draws = hmm(initial, transition).posterior_sample(value, (20_000,))
    found = {}
    for path in map(tuple, draws.tolist()):
        found[path] = found.get(path, 0) + 1
    for path, log_p in paths.items():
        p = np.exp(log_p - total)
        # Six standard errors of a count.
        assert abs(found.get(path, 0) - 20_000 * p) <= 6 * np.sqrt(20_000 * p * (1 - p)) + 1e-9


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gradients(steps):
    initial, transition, value = chain(steps, True)
    leaves = [x.requires_grad_() for x in (initial, transition, LOCS.clone(), value)]

    def density(initial, transition, locs, value):
        return dist.DiscreteHMM(initial, transition, dist.Normal(locs, 1.0), duration=steps).log_prob(value)

    assert torch.autograd.gradcheck(density, leaves)
    assert torch.autograd.gradgradcheck(density, leaves)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impossible_and_far_values_give_numbers_and_gradients_that_are_not_nan(dtype):
    """Chains that must move on, observations a state cannot make, and maxima at states that do not lead anywhere."""
    transition = t([[0.0, -torch.inf], [-torch.inf, 0.0]], dtype=dtype)
    logits = t([[0.0, -2000.0], [-2000.0, 0.0]], dtype=dtype)
    for name, matrix in (("stays", transition), ("rarely moves", logits)):
        matrix = matrix.clone().requires_grad_()
        initial = t([0.0, -torch.inf], dtype=dtype, requires_grad=True)
        low = t([0.0, 1.0], dtype=dtype)
        d = dist.DiscreteHMM(initial, matrix, dist.Uniform(low, low + 1, validate_args=False), duration=3)
        possible = d.log_prob(t([0.5, 0.5, 0.5], dtype=dtype))
        assert possible == 0
        other = d.log_prob(t([0.5, 1.5, 1.5], dtype=dtype))
        # Exact: one rare move, which no product of shifted exponentials keeps.
        assert other == (-torch.inf if name == "stays" else -2000)
        for density in (possible, other):
            for gradient in torch.autograd.grad(density, [initial, matrix], retain_graph=True):
                assert not gradient.isnan().any()


def test_a_state_without_a_successor_makes_a_sequence_impossible():
    transition = torch.full((2, 2), -torch.inf).requires_grad_()
    d = dist.DiscreteHMM(torch.zeros(2), transition, dist.Normal(torch.zeros(2), 1.0), duration=2)
    density = d.log_prob(torch.zeros(2))
    assert density == -torch.inf
    assert not torch.autograd.grad(density, transition)[0].isnan().any()
    assert not d.smooth(torch.zeros(2)).isnan().any()


def test_products_in_log_space_are_exact():
    far = t([[0.0, -1000.0]])
    assert log_matmul(far, t([[-torch.inf], [0.0]])) == -1000
    a, b = torch.randn(2, 3, 4), torch.randn(4, 5)
    torch.testing.assert_close(log_matmul(a, b), (a.exp() @ b.exp()).log())
    assert log_sum_exp(torch.full((2, 2), -torch.inf), [0, 1]) == -torch.inf


def test_a_long_chain_keeps_its_digits_and_a_short_graph():
    steps = 1000
    initial, transition, _ = chain(1, False)
    value = torch.randn(steps, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    d = hmm(initial, transition.requires_grad_(), duration=steps)
    alpha = initial.log_softmax(-1)
    for x in value:
        alpha = torch.logsumexp(alpha[:, None] + transition.log_softmax(-1), 0) + dist.Normal(LOCS, 1.0).log_prob(x)
    found = d.log_prob(value)
    torch.testing.assert_close(found, alpha.logsumexp(0), rtol=1e-12, atol=0)
    nodes, waiting = set(), [found.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [following for following, _ in node.next_functions]
    assert len(nodes) < 600  # of about 20 products; one at each time would be above 10,000


def test_the_loop_is_taken_where_there_are_many_states():
    assert forward_backward.in_levels(torch.empty(1000, 16, 16))
    assert not forward_backward.in_levels(torch.empty(1000, 64, 64))
    assert not forward_backward.in_levels(torch.empty(100, 20, 16, 16))


@pytest.mark.usefixtures("way")
def test_batches_are_their_elements():
    """Parameters of several batch shapes, a batch of masks, and more values than parameters."""
    rng = torch.Generator().manual_seed(3)
    initial = torch.randn(4, 1, STATES, generator=rng)
    transition = torch.randn(2, 5, STATES, STATES, generator=rng)
    locs = torch.randn(4, 1, 1, STATES, generator=rng)
    mask = torch.rand(2, 5, generator=rng) < 0.6
    d = dist.DiscreteHMM(initial, transition, dist.Normal(locs, 1.0), mask=mask)
    assert (d.batch_shape, d.event_shape, d.duration) == ((4, 2), (5,), 5)
    value = torch.randn(7, 4, 2, 5, generator=rng)
    found, smooth, best = d.log_prob(value), d.smooth(value), d.most_probable_path(value)
    assert found.shape == (7, 4, 2) and smooth.shape == (7, 4, 2, 5, STATES) and best.shape == (7, 4, 2, 5)
    assert d.posterior_sample(value[0], (3,)).shape == (3, 4, 2, 5)
    for s, i, j in itertools.product((0, 6), range(4), range(2)):
        one = dist.DiscreteHMM(initial[i, 0], transition[j], dist.Normal(locs[i, 0, 0], 1.0), mask=mask[j])
        torch.testing.assert_close(found[s, i, j], one.log_prob(value[s, i, j]))
        torch.testing.assert_close(smooth[s, i, j], one.smooth(value[s, i, j]))
        assert torch.equal(best[s, i, j], one.most_probable_path(value[s, i, j]))
    wide = d.expand((6, 4, 2))
    torch.testing.assert_close(wide.log_prob(value[0]), found[0].expand(6, 4, 2))
    assert wide.filter(value[0]).batch_shape == (6, 4, 2)
    assert Source(torch.Generator().manual_seed(0)).draw(wide).shape == (6, 4, 2, 5)


def test_observations_may_be_vectors_or_whole_numbers():
    initial, transition, _ = chain(3, False)
    vectors = dist.Normal(torch.randn(STATES, 2, dtype=torch.float64), 1.0).to_event(1)
    d = dist.DiscreteHMM(initial, transition, vectors, duration=3)
    assert d.event_shape == (3, 2) and d.sample((4,)).shape == (4, 3, 2)
    assert d.log_prob(d.sample((4,))).shape == (4,)
    counts = dist.DiscreteHMM(initial, transition, dist.Poisson(t([1.0, 2.0, 3.0])), duration=3)
    assert torch.equal(counts.support.check(t([[0.0, 3.0, 1.0], [0.0, -1.0, 1.0]])), t([True, False]))
    masses = dist.DiscreteHMM(initial, transition, dist.Categorical(logits=torch.randn(STATES, 2)), duration=3)
    every = t(list(itertools.product(range(2), repeat=3)))
    torch.testing.assert_close(masses.log_prob(every).logsumexp(0), t(0.0, dtype=torch.float64), atol=1e-6, rtol=0)


def test_draws_follow_the_density():
    """Each sequence of two symbols, with hidden states of which some cannot follow each other."""
    initial, transition, _ = chain(1, False, zeros=True)
    law = dist.Categorical(probs=t([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], dtype=torch.float64))
    d = dist.DiscreteHMM(initial, transition, law, duration=4)
    torch.manual_seed(0)
    found = (d.sample((20_000,)) * t([8, 4, 2, 1])).sum(-1).bincount(minlength=16)
    p = d.log_prob(t(list(itertools.product(range(2), repeat=4)))).exp()
    assert torch.all((found - 20_000 * p).abs() <= 6 * (20_000 * p * (1 - p)).sqrt())


def test_without_a_duration_a_density_takes_any_length_and_there_are_no_draws():
    initial, transition, value = chain(5, False)
    d = hmm(initial, transition)
    assert d.duration is None
    torch.testing.assert_close(d.log_prob(value), hmm(initial, transition, duration=5).log_prob(value))
    with pytest.raises(ValueError, match="say how many to draw by duration="):
        d.sample()


BAD = {
    "transition": (lambda i, m: hmm(i, m[:2]), r"\[\*batch, time, states, states\], got \[3\] and \[2, 3\]"),
    "states": (lambda i, m: dist.DiscreteHMM(i, m, dist.Normal(t([0.0, 1.0]), 1.0)), r"time, 3\], one for each state"),
    "duration": (lambda i, m: hmm(i, m.expand(5, 3, 3), duration=4), "duration=4, but the parameters have 5 times"),
    "zero": (lambda i, m: hmm(i, m, duration=0), "a whole number above zero, got 0"),
    "mask": (lambda i, m: hmm(i, m, mask=torch.ones(5)), r"mask must be a bool tensor .* got torch.float32"),
    "times": (lambda i, m: hmm(i, m.expand(5, 3, 3), mask=torch.ones(4) > 0), "do not agree in batch and time"),
    "value": (lambda i, m: hmm(i, m, duration=5).log_prob(torch.zeros(1)), r"the shape \[\*batch, 5\], got \[1\]"),
    "empty": (lambda i, m: hmm(i, m).log_prob(torch.zeros(0)), r"the shape \[\*batch, time\], got \[0\]"),
    "expand": (lambda i, m: hmm(i.expand(2, 3), m).expand((3,)), r"\(2,\) cannot be expanded to \(3,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_refused_by_name(name):
    initial, transition, _ = chain(1, False)
    make, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=message):
        make(initial, transition)
