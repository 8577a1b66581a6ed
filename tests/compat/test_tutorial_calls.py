"""Programs of our own that make the calls of Pyro's tutorial on gradient estimators, run as `import pyro`.

How many steps the coin takes is a matter of chance; the medians over seeds are those of docs/estimators.md.
"""

import statistics
import sys

import pytest
import torch
from torch import nn

from varigrad.compat.pyro import install, uninstall


@pytest.fixture(autouse=True)
def _pyro():
    before = {n: m for n, m in sys.modules.items() if n.split(".")[0] == "pyro"}
    for name in before:
        del sys.modules[name]
    install()
    yield
    uninstall()
    sys.modules.update(before)


class Clusters:
    """Points in two groups; which group a point is in is a choice, marked as independent or not."""

    def __init__(self, marked):
        self.marked = marked
        self.points = torch.tensor([-2.1, -1.9, -2.0, 3.0, 3.1])

    def centres(self):
        import pyro

        return pyro.param("centres", torch.tensor([-0.5, 0.5]))

    def model(self):
        import pyro
        import pyro.distributions as dist

        even = torch.full((5, 2), 0.5)
        if self.marked:
            with pyro.plate("points", self.points.size(-1)):
                group = pyro.sample("group", dist.Categorical(even[0]))
                pyro.sample("point", dist.Normal(self.centres()[group], 0.5), obs=self.points)
        else:
            group = pyro.sample("group", dist.Categorical(even).to_event(1))
            pyro.sample("point", dist.Normal(self.centres()[group], 0.5).to_event(1), obs=self.points)

    def guide(self):
        import pyro
        import pyro.distributions as dist

        logits = pyro.param("logits", torch.zeros(5, 2))
        if self.marked:
            with pyro.plate("points", 5):
                pyro.sample("group", dist.Categorical(logits=logits))
        else:
            pyro.sample("group", dist.Categorical(logits=logits).to_event(1))


@pytest.mark.parametrize("marked", [False, True])
def test_a_mixture_with_and_without_its_independence_marked(marked):
    import pyro
    from pyro.infer import SVI, TraceGraph_ELBO
    from pyro.optim import Adam

    program = Clusters(marked)
    pyro.set_rng_seed(1)
    svi = SVI(program.model, program.guide, Adam({"lr": 0.05}), TraceGraph_ELBO(num_particles=5))
    for _ in range(250):
        svi.step()
    found = pyro.param("logits").softmax(-1)[:, 0]
    assert (found[:3] - found[3:].mean()).abs().min() > 0.8
    assert sorted(pyro.param("centres").tolist()) == pytest.approx([-2.0, 3.05], abs=0.6)


def test_independence_lowers_the_variance():
    import pyro
    from pyro.infer import TraceGraph_ELBO

    spread = {}
    for marked in (False, True):
        program, objective, seen = Clusters(marked), TraceGraph_ELBO(), []
        pyro.clear_param_store()
        for _ in range(150):
            objective.loss_and_grads(program.model, program.guide)
            leaf = pyro.param("logits").unconstrained()
            seen.append(leaf.grad.clone())
            leaf.grad = None
        spread[marked] = torch.stack(seen).var(0).mean().item()
    assert spread[True] < spread[False] / 2


def test_provenance_of_tensors():
    from pyro.ops.provenance import get_provenance, track_provenance

    rain = track_provenance(torch.rand(2), frozenset({"rain"}))
    wind = track_provenance(torch.rand(2), frozenset({"wind"}))
    assert get_provenance(rain.log()) == frozenset({"rain"})
    assert get_provenance(rain - 2 * (wind + torch.rand(2))) == frozenset({"rain", "wind"})


def test_provenance_of_sites():
    import pyro
    import pyro.distributions as dist
    from pyro.infer.tracegraph_elbo import TrackNonReparam
    from pyro.ops.provenance import get_provenance
    from pyro.poutine import trace

    def weather():
        season = pyro.sample("season", dist.Categorical(torch.tensor([0.5, 0.5])))
        rain = pyro.sample("rain", dist.Bernoulli(torch.tensor([0.2, 0.6])[season]))
        warm = pyro.sample("warm", dist.Normal(torch.tensor([20.0, 5.0])[season], 3.0))
        pyro.sample("wet", dist.Bernoulli(torch.tensor([0.1, 0.9])[rain.long()]), obs=torch.tensor(1.0))
        return warm

    with TrackNonReparam():
        found = trace(weather).get_trace()
    found.compute_log_prob()
    assert get_provenance(found.nodes["season"]["log_prob"]) == frozenset({"season"})
    assert get_provenance(found.nodes["rain"]["log_prob"]) == frozenset({"season", "rain"})
    assert get_provenance(found.nodes["wet"]["log_prob"]) == frozenset({"season", "rain"})
    assert get_provenance(found.nodes["warm"]["log_prob"]) == frozenset({"season"})


class Guess(nn.Module):
    """What the cost of a row is likely to be."""

    def __init__(self, inputs, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, x):
        return self.layers(x).squeeze(-1)


@pytest.mark.parametrize("kind", ["average", "network", "network and average", "value"])
def test_baselines_with_a_rate_of_their_own(kind):
    import pyro
    import pyro.distributions as dist
    from pyro import optim
    from pyro.infer import SVI, TraceGraph_ELBO

    network = Guess(2, 4)

    def model(rows):
        with pyro.plate("rows", len(rows)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(2 * z, 1.0), obs=rows[:, 0])

    def guide(rows):
        options = {}
        if "average" in kind:
            options |= {"use_decaying_avg_baseline": True, "baseline_beta": 0.95}
        if kind != "average":
            pyro.module("my_baseline", network)
        if "network" in kind:
            options |= {"nn_baseline": network, "nn_baseline_input": rows}
        if kind == "value":
            options |= {"baseline_value": network(rows.detach())}
        weights = pyro.param("weights", torch.zeros(2))
        with pyro.plate("rows", len(rows)):
            pyro.sample("z", dist.Bernoulli(logits=rows @ weights), infer={"baseline": options})

    asked = {}

    def per_param_args(param_name):
        asked[param_name] = {"lr": 0.01} if "baseline" in param_name else {"lr": 0.001}
        return asked[param_name]

    before = [p.detach().clone() for p in network.parameters()]
    svi = SVI(model, guide, optim.Adam(per_param_args), TraceGraph_ELBO())
    for size in (4, 4, 1, 3):  # minibatches that change, and one of a single row
        svi.step(torch.randn(size, 2))
    moved = [(p - b).abs().max().item() for p, b in zip(network.parameters(), before, strict=True)]
    assert asked["weights"] == {"lr": 0.001} and 0 < pyro.param("weights").abs().max() < 0.0041
    if kind == "average":
        assert set(asked) == {"weights"} and max(moved) == 0
    else:
        assert len(asked) == 5 and 0.01 < max(moved) < 0.041


class Coin:
    """Heads and tails, a Beta prior; how many steps until the guide is near the posterior, Beta(16, 14)."""

    tosses = torch.tensor([1.0] * 6 + [0.0] * 4)

    def model(self, use_average):
        import pyro
        import pyro.distributions as dist

        heads = pyro.sample("heads", dist.Beta(10.0, 10.0))
        with pyro.plate("tosses"):
            pyro.sample("toss", dist.Bernoulli(heads), obs=self.tosses)

    def guide(self, use_average):
        import pyro
        import pyro.distributions as dist
        from pyro.distributions.testing.fakes import NonreparameterizedBeta

        a = pyro.param("a", torch.tensor(15.0), constraint=dist.constraints.positive)
        b = pyro.param("b", torch.tensor(15.0), constraint=dist.constraints.positive)
        baseline = {"use_decaying_avg_baseline": use_average, "baseline_beta": 0.90}
        pyro.sample("heads", NonreparameterizedBeta(a, b), infer={"baseline": baseline})

    def steps(self, use_average, seed, most=10_000):
        import pyro
        from pyro import optim
        from pyro.infer import SVI, TraceGraph_ELBO

        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        optimizer = optim.Adam({"lr": 0.0005, "betas": (0.93, 0.999)})
        svi = SVI(self.model, self.guide, optimizer, loss=TraceGraph_ELBO())
        for step in range(most):
            svi.step(use_average)
            errors = [abs(pyro.param(n).item() - target) for n, target in (("a", 16.0), ("b", 14.0))]
            if max(errors) < 0.8:
                return step
        return most


def test_how_long_the_coin_takes():
    assert (median := statistics.median(Coin().steps(True, seed) for seed in range(15))) == pytest.approx(160, abs=50)
    without = [Coin().steps(False, seed, most=1_500) for seed in range(7)]
    assert statistics.median(without) > 1.3 * median
