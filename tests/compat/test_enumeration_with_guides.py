"""Programs of the kinds of Pyro's documentation that sum out sites of the model beside a guide, by brute force."""

import pytest
import torch
from tests.compat.enumerated import densities, probabilities
from tests.compat.programs import t

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import poutine
from varigrad.compat.pyro.infer import (
    SVI,
    TraceEnum_ELBO,
    config_enumerate,
    infer_discrete,
)
from varigrad.compat.pyro.infer.autoguide import AutoDelta

parallel, sequential = {"enumerate": "parallel"}, {"enumerate": "sequential"}
positive, simplex, interval = dist.constraints.positive, dist.constraints.simplex, dist.constraints.unit_interval


def no_guide(*args, **kwargs):
    """A guide without sites."""


def test_a_gaussian_mixture_is_fitted_and_its_assignments_read_off():
    data = t([0.0, 1.0, 10.0, 11.0, 12.0])

    @config_enumerate
    def model(data):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2, dtype=data.dtype)))
        scale = pyro.sample("scale", dist.LogNormal(t(0.0), 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(t(0.0), 10.0))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)
        return assignment

    start = {"weights": t([0.5, 0.5]), "scale": t(4.0), "locs": t([0.0, 10.0])}
    guide = AutoDelta(
        poutine.block(model, expose=["weights", "locs", "scale"]), init_loc_fn=lambda site: start[site["name"]]
    )
    objective = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), objective)
    for _ in range(200):
        svi.step(data)
    fitted = guide(data)
    assert fitted["locs"].tolist() == pytest.approx([0.5, 11.0], abs=0.1)
    exact = densities(poutine.condition(model, data=fitted), data)[1].logsumexp(0)
    assert objective.loss(model, guide, data) == pytest.approx(-exact.item(), rel=1e-9)

    trace = poutine.trace(guide).get_trace(data)
    inferred = infer_discrete(poutine.replay(model, trace=trace), temperature=0, first_available_dim=-2)
    found = poutine.trace(inferred).get_trace(data)
    assert found.nodes["assignment"]["value"].tolist() == [0, 0, 1, 1, 1]
    assert torch.equal(found.nodes["locs"]["value"], trace.nodes["locs"]["value"])
    assert objective.sample_posterior(model, guide, data).shape == (5,)
    marginals = objective.compute_marginals(model, guide, data)["assignment"]
    assert torch.allclose(
        marginals.probs[:, 1], probabilities(poutine.condition(model, data=fitted), "assignment", 1, data)
    )


def test_capture_and_recapture():
    """Cormack, Jolly and Seber's model: animals count from the round after their first capture."""
    history = t([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])

    def model(history):
        animals, rounds = history.shape
        phi = pyro.sample("phi", dist.Uniform(t(0.0), 1.0))
        rho = pyro.sample("rho", dist.Uniform(t(0.0), 1.0))
        with pyro.plate("animals", animals, dim=-1):
            z = torch.ones(animals, dtype=history.dtype)
            seen = torch.zeros(animals, dtype=torch.bool)
            for step in pyro.markov(range(rounds)):
                with poutine.mask(mask=seen):
                    alive = seen * phi * z + ~seen
                    z = pyro.sample(f"z_{step}", dist.Bernoulli(alive), infer=parallel)
                    pyro.sample(f"y_{step}", dist.Bernoulli(rho * z), obs=history[:, step])
                seen = seen | history[:, step].bool()

    def guide(history):
        pyro.sample("phi", dist.Delta(pyro.param("phi_at", t(0.7), constraint=interval)))
        pyro.sample("rho", dist.Delta(pyro.param("rho_at", t(0.4), constraint=interval)))

    def alive_or_not(row):
        """The probability of one history after its first capture."""
        phi, rho = 0.7, 0.4
        first = row.index(1.0)
        alive, gone = 1.0, 0.0  # jointly with what has been seen so far
        for y in row[first + 1 :]:
            alive, gone = alive * phi * (rho if y else 1 - rho), (gone + alive * (1 - phi)) * (0.0 if y else 1.0)
        return alive + gone

    exact = sum(t(alive_or_not(row)).log() for row in history.tolist())
    assert TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, history) == pytest.approx(-exact.item(), rel=1e-9)


def test_a_topic_model_whose_words_topics_are_summed_out():
    data = torch.tensor([[0, 2], [1, 1], [2, 0]])  # [words, documents]

    def model(data=None):
        with pyro.plate("topics", 2):
            weights = pyro.sample("weights", dist.Gamma(t(0.5), 1.0))
            words = pyro.sample("words", dist.Dirichlet(torch.ones(3, dtype=weights.dtype)))
        with pyro.plate("documents", 2):
            topics = pyro.sample("topics", dist.Dirichlet(weights))
            with pyro.plate("positions", 3):
                k = pyro.sample("k", dist.Categorical(topics), infer=parallel)
                pyro.sample("w", dist.Categorical(words[k]), obs=data)

    at = {
        "weights": t([0.7, 1.3]),
        "words": t([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]),
        "topics": t([[0.4, 0.6], [0.9, 0.1]]),
    }

    def guide(data=None):
        with pyro.plate("topics", 2):
            pyro.sample("weights", dist.Delta(at["weights"]))
            pyro.sample("words", dist.Delta(at["words"], event_dim=1))
        with pyro.plate("documents", 2):
            pyro.sample("topics", dist.Delta(pyro.param("t", at["topics"], constraint=simplex), event_dim=1))

    prior = dist.Gamma(t(0.5), 1.0).log_prob(at["weights"]).sum()
    prior = prior + dist.Dirichlet(t([1.0, 1.0, 1.0])).log_prob(at["words"]).sum()
    prior = prior + dist.Dirichlet(at["weights"]).log_prob(at["topics"]).sum()
    seen = torch.einsum("dk,kw->dw", at["topics"], at["words"])
    exact = prior + seen[torch.arange(2), data].log().sum()
    objective = TraceEnum_ELBO(max_plate_nesting=2)
    assert objective.loss(model, guide, data) == pytest.approx(-exact.item(), rel=1e-9)
    by_words = at["topics"] * at["words"][:, data].permute(1, 2, 0)
    probs = objective.compute_marginals(model, guide, data)["k"].probs
    assert torch.allclose(probs, by_words / by_words.sum(-1, keepdim=True))


def test_a_site_of_the_guide_and_one_of_the_model():
    @config_enumerate
    def model():
        a = pyro.sample("a", dist.Bernoulli(t(0.3)))
        b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
        pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=t(1.3))

    @config_enumerate
    def guide():
        pyro.sample("a", dist.Bernoulli(pyro.param("q", t(0.6), constraint=interval)))

    q = t([0.4, 0.6])
    inside = [densities(poutine.condition(model, data={"a": t(a)}))[1].logsumexp(0) for a in (0.0, 1.0)]
    exact = (q * (torch.stack(inside) - q.log())).sum()
    objective = TraceEnum_ELBO()
    assert objective.loss(model, guide) == pytest.approx(-exact.item(), rel=1e-10)
    for method in (objective.compute_marginals, objective.sample_posterior):
        with pytest.raises(NotImplementedError, match=r"\['a'\] of the guide are enumerated. Try: no mark"):
            method(model, guide)
