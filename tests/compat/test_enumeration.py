"""Enumeration of a model's sites under Pyro's names: programs of the kinds of Pyro's documentation, by brute force."""

from collections import Counter

import pytest
import torch
from tests.compat.enumerated import densities, probabilities
from tests.compat.programs import t

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import poutine
from varigrad.compat.pyro.infer import (
    JitTraceEnum_ELBO,
    TraceEnum_ELBO,
    TraceEnumSample_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
    infer_discrete,
)
from varigrad.compat.pyro.infer.enum import iter_discrete_traces
from varigrad.compat.pyro.ops.indexing import Vindex
from varigrad.errors import SiteError, VarigradError

parallel, sequential = {"enumerate": "parallel"}, {"enumerate": "sequential"}
positive, simplex, interval = dist.constraints.positive, dist.constraints.simplex, dist.constraints.unit_interval


def no_guide(*args, **kwargs):
    """A guide without sites."""


# Programs without plates outside of loops, or in few elements, so that all joint values can be listed


def mixture():
    weights = pyro.param("weights", t([0.2, 0.3, 0.5]), constraint=simplex)
    with pyro.plate("data", 3, dim=-1):
        k = pyro.sample("k", dist.Categorical(weights), infer=parallel)
        pyro.sample("x", dist.Normal(pyro.param("means", t([-1.0, 0.5, 2.0]))[k], 1.0), obs=t([0.0, 1.0, 1.2]))


@config_enumerate(default="sequential")
def shared_cause():
    cause = pyro.sample("cause", dist.Bernoulli(pyro.param("p", t(0.3), constraint=interval)))
    with pyro.plate("data", 3):
        effect = pyro.sample("effect", dist.Bernoulli(0.2 + 0.5 * cause))
        pyro.sample(
            "x", dist.Normal(effect + cause, pyro.param("s", t(0.7), constraint=positive)), obs=t([0.1, 1.0, 2])
        )


@config_enumerate
def hidden_markov(lengths=(4, 2)):
    """Two sequences side by side, of different lengths."""
    moves = pyro.param("moves", t([[0.8, 0.2], [0.3, 0.7]]), constraint=simplex)
    means = pyro.param("means", t([-1.0, 1.5]))
    data = t([[-1.0, 2.0, 0.5, 1.0], [1.0, -0.5, 9.0, 9.0]])
    lengths = torch.tensor(lengths)
    with pyro.plate("sequences", 2, dim=-1):
        x = 0
        for step in pyro.markov(range(4)):
            with poutine.mask(mask=step < lengths):
                x = pyro.sample(f"x_{step}", dist.Categorical(moves[x]))
                pyro.sample(f"y_{step}", dist.Normal(means[x], 1.0), obs=data[:, step])


@config_enumerate
def second_order():
    table = pyro.param("table", t([[[0.6, 0.4], [0.3, 0.7]], [[0.5, 0.5], [0.1, 0.9]]]), constraint=simplex)
    before = now = torch.tensor(0)
    for step in pyro.markov(range(4), history=2):
        before, now = now, pyro.sample(f"x_{step}", dist.Categorical(Vindex(table)[before, now]))
        pyro.sample(f"y_{step}", dist.Normal(now.to(table), 0.8), obs=t([0.1, 0.9, 0.4, 1.2])[step])


def factorial():
    """Two chains, both seen in a plate of tones."""
    p = pyro.param("p", t([0.3, 0.8]), constraint=interval)
    w = x = torch.tensor(0)
    with pyro.plate("tones", 2, dim=-1) as tones:
        data = t([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    for step in pyro.markov(range(3)):
        w = pyro.sample(f"w_{step}", dist.Bernoulli(p[w.long()]), infer=parallel)
        x = pyro.sample(f"x_{step}", dist.Bernoulli(p[x.long()]), infer=parallel)
        with pyro.plate("tones", 2, dim=-1):
            probs = t([[[0.1, 0.4], [0.5, 0.7]], [[0.3, 0.6], [0.8, 0.9]]])
            probs = Vindex(probs)[w.long(), x.long(), tones]
            pyro.sample(f"y_{step}", dist.Bernoulli(probs), obs=data[step])


EVERY = [mixture, shared_cause, hidden_markov, second_order, factorial]


def unmasked(model):
    """A model whose marked sites no mask leaves out: Pyro sums over their own probabilities there."""

    class Unmasked(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            if msg["infer"].get("enumerate"):
                msg["mask"] = None

    return Unmasked()(model)


@pytest.mark.parametrize("model", EVERY)
@pytest.mark.parametrize("objective", [TraceEnum_ELBO, JitTraceEnum_ELBO])
def test_the_loss_and_its_gradient_sum_over_all_joint_values(model, objective):
    exact = densities(unmasked(model))[1].logsumexp(0)
    store = pyro.get_param_store()
    leaves = dict(store.named_parameters())
    wanted = torch.autograd.grad(-exact, list(leaves.values()))
    loss = objective(max_plate_nesting=1).loss_and_grads(model, no_guide)
    assert loss == pytest.approx(-exact.item(), rel=1e-10)
    for leaf, grad in zip(leaves.values(), wanted, strict=True):
        assert torch.allclose(leaf.grad, grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", EVERY)
def test_marginals_and_the_most_probable_joint_value(model):
    plain = unmasked(model)
    values, logs = densities(plain)
    marginals = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(model, no_guide)
    assert list(marginals) == list(values[0])
    for site, found in marginals.items():
        for value in found.enumerate_support(expand=False).flatten():
            assert torch.allclose(found.log_prob(value).exp(), probabilities(plain, site, value), atol=1e-12)
    if model is hidden_markov:
        values, logs = densities(model)  # here a mask leaves out a site's own density, too
    trace = poutine.trace(infer_discrete(model, first_available_dim=-2, temperature=0)).get_trace()
    for site, value in values[logs.argmax()].items():
        assert torch.equal(trace.nodes[site]["value"], value)
        assert trace.nodes[site]["infer"]["enumerate"] and not trace.nodes[site]["is_observed"]


@pytest.mark.parametrize("way", ["infer_discrete", "sample_posterior", "sample_saved"])
def test_draws_follow_the_joint_posterior(way):
    @config_enumerate
    def returning():
        a = pyro.sample("a", dist.Bernoulli(t(0.3)))
        b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=t(1.2))
        return a, b

    values, logs = densities(returning)
    exact = {(int(v["a"]), int(v["b"])): p.item() for v, p in zip(values, logs.softmax(0), strict=True)}
    pyro.set_rng_seed(0)
    objective = TraceEnumSample_ELBO()
    objective.loss(returning, no_guide)
    draw = {
        "infer_discrete": infer_discrete(returning, first_available_dim=-1),
        "sample_posterior": lambda: objective.sample_posterior(returning, no_guide),
        "sample_saved": objective.sample_saved,
    }[way]
    count = 200
    found = Counter(tuple(map(int, draw())) for _ in range(count))
    for pair, p in exact.items():
        assert abs(found[pair] / count - p) < 4.5 * (p * (1 - p) / count) ** 0.5


# What is refused


def test_what_is_refused():
    objective = TraceEnum_ELBO(strict_enumeration_warning=False)
    with pytest.raises(NotImplementedError, match="compute_marginals is about one particle"):
        TraceEnum_ELBO(num_particles=2).compute_marginals(mixture, no_guide)
    with pytest.raises(VarigradError, match="sample_posterior: no site of the model is summed out"):
        objective.sample_posterior(poutine.block(mixture, hide=["k"]), no_guide)
    with pytest.raises(VarigradError, match="no loss has been computed yet"):
        TraceEnumSample_ELBO().sample_saved()
    with pytest.raises(ValueError, match="first_available_dim must be negative, got 0"):
        infer_discrete(mixture, first_available_dim=0)
    with pytest.raises(ValueError, match=r"temperature must be 0 or 1, got 0\.5"):
        infer_discrete(mixture, first_available_dim=-1, temperature=0.5)
    with pytest.warns(UserWarning, match="infer_discrete: no site is marked"):
        assert infer_discrete(lambda: 3, first_available_dim=-1)() == 3
    assert infer_discrete(first_available_dim=-1, strict_enumeration_warning=False)(lambda: 3)() == 3
    endless = lambda: pyro.sample("n", dist.Poisson(t(1.0)), infer=parallel)  # noqa: E731
    with pytest.raises(SiteError, match="'n': cannot be summed out; because Poisson"):
        objective.loss(endless, no_guide)


def test_samples_in_place_of_all_values_are_refused_in_the_model():
    def model():
        k = pyro.sample("k", dist.Bernoulli(t(0.3)), infer={**parallel, "num_samples": 3})
        pyro.sample("x", dist.Normal(k, 1.0), obs=t(1.0))

    for use in (
        lambda: TraceEnum_ELBO().loss(model, no_guide),
        infer_discrete(model, first_available_dim=-1),
        lambda: TraceEnum_ELBO().loss(config_enumerate(mixture_unmarked, num_samples=2), no_guide),
    ):
        with pytest.raises(NotImplementedError, match=r"'k': samples of a site in the model.*Try: no num_samples"):
            use()
    objective = TraceTMC_ELBO(max_plate_nesting=1)
    with pytest.raises(NotImplementedError, match=r"TraceTMC_ELBO.*Try: TraceEnum_ELBO"):
        objective.loss(model, no_guide)


def mixture_unmarked():
    k = pyro.sample("k", dist.Bernoulli(t(0.3)))
    pyro.sample("x", dist.Normal(k, 1.0), obs=t(1.0))


@config_enumerate
def between():
    """A site without a guide between one that is summed out and the data."""
    k = pyro.sample("k", dist.Bernoulli(t(0.3)))
    z = pyro.sample("z", dist.Normal(k, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=t(1.0))


def test_a_site_between_the_sum_and_the_data_needs_a_value():
    with pytest.raises(SiteError, match=r"'z': is neither observed, nor summed out, nor a site of the guide"):
        infer_discrete(between, first_available_dim=-1)()


@pytest.mark.parametrize(("value", "state"), [(3.0, 1), (-3.0, 0)])
def test_a_value_that_is_given_is_evidence(value, state):
    trace = poutine.trace(lambda: pyro.sample("z", dist.Delta(t(value)))).get_trace()
    for given in (poutine.replay(between, trace=trace), poutine.condition(between, data={"z": t(value)})):
        found = poutine.trace(infer_discrete(given, first_available_dim=-1, temperature=0)).get_trace()
        assert found.nodes["k"]["value"] == state and found.nodes["z"]["value"] == value


def test_a_site_that_nothing_depends_on_is_drawn_from_the_model():
    """Its density integrates to one, so the posterior of the others does not know it."""

    @config_enumerate
    def model():
        with pyro.plate("two", 2):
            k = pyro.sample("k", dist.Categorical(t([0.5, 0.5])))
            z = pyro.sample("z", dist.Normal(10.0 * k, t(0.1)))
            w = pyro.sample("w", dist.Normal(z, t(0.1)))
            pyro.sample("x", dist.Normal(10.0 * k, t(1.0)), obs=t([0.0, 10.0]))
        return k, z, w

    k, z, w = infer_discrete(model, first_available_dim=-2, temperature=0)()
    assert k.tolist() == [0, 1] and (z - 10 * k).abs().max() < 1 and (w - z).abs().max() < 1
    marginals = TraceEnum_ELBO().compute_marginals(model, no_guide)
    assert list(marginals) == ["k"] and torch.equal(marginals["k"].probs.argmax(-1), k)


def test_sites_without_a_mark_keep_the_value_that_the_posterior_was_found_for():
    seen = []

    def model():
        loc = pyro.sample("loc", dist.Normal(t(0.0), 3.0))
        k = pyro.sample("k", dist.Bernoulli(torch.sigmoid(100 * loc)), infer=parallel)
        pyro.sample("x", dist.Normal(loc * 0, 1.0), obs=t(0.0))
        seen.append((loc, k))
        return loc, k

    pyro.set_rng_seed(1)
    pairs = [infer_discrete(model, first_available_dim=-1)() for _ in range(20)]
    assert all((loc > 0) == k for loc, k in pairs) and {float(k) for _, k in pairs} == {0.0, 1.0}


def test_a_minibatch_is_the_same_in_the_posterior_and_in_the_run():
    data = t([-5.0, 5.0, -5.0, 5.0, -5.0, 5.0])

    @infer_discrete(first_available_dim=-2, temperature=0)
    @config_enumerate
    def model():
        with pyro.plate("data", 6, subsample_size=3) as index:
            k = pyro.sample("k", dist.Bernoulli(t(0.5)))
            pyro.sample("x", dist.Normal(10 * k - 5, 1.0), obs=data[index])
        return index, k

    for _ in range(5):
        index, k = model()
        assert torch.equal(k, (data[index] > 0).to(k))


def test_handlers_outside_see_one_run():
    seen = []

    class Count(poutine.messenger.Messenger):
        def _pyro_sample(self, msg):
            seen.append(msg["name"])

    with Count():
        infer_discrete(mixture, first_available_dim=-2)()
    assert [name for name in seen if name != "data"] == ["k", "x"]


def test_one_trace_for_each_joint_value():
    def model():
        a = pyro.sample("a", dist.Bernoulli(t(0.3)), infer=sequential)
        z = pyro.sample("z", dist.Normal(t(0.0), 1.0))
        if a:
            pyro.sample("b", dist.Categorical(t([0.2, 0.3, 0.5])), infer=sequential)
        pyro.sample("c", dist.Bernoulli(t(0.5)), infer=parallel)
        return z

    traces = list(iter_discrete_traces("flat", model))
    found = sorted(tuple(int(trace.nodes[n]["value"]) for n in ("a", "b") if n in trace) for trace in traces)
    assert found == [(0,), (1, 0), (1, 1), (1, 2)]
    assert len({float(trace.nodes["z"]["value"]) for trace in traces}) == 4
    assert {trace.nodes["a"]["infer"]["_enum_total"] for trace in traces} == {2}
    total = sum((trace.log_prob_sum(lambda name, site: name in "ab")).exp() for trace in traces)
    assert total.item() == pytest.approx(1.0)
