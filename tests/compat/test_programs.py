"""What whole programs written for Pyro rely on, in programs of our own that make the same calls."""

import pytest
import torch

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import pyroapi
from varigrad.compat.pyro.distributions import constraints
from varigrad.compat.pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from varigrad.compat.pyro.optim import SGD, Adam
from varigrad.errors import VarigradError

t = torch.tensor


@pytest.fixture(autouse=True)
def _clear():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def test_a_model_takes_its_guides_minibatch():
    """The guide of amortised programs names the minibatch, the model only the plate."""
    data = torch.arange(10.0)
    seen = []

    def model(data):
        with pyro.plate("data", 10) as index:
            seen.append(index)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=data[index])

    def guide(data):
        slope = pyro.param("slope", t(0.3))
        with pyro.plate("data", 10, 4) as index:
            seen.append(index)
            pyro.sample("z", dist.Normal(slope * data[index], 0.5**0.5))

    torch.manual_seed(0)
    svi = SVI(model, guide, SGD({"lr": 0.0}), Trace_ELBO())
    losses = [svi.step(data) for _ in range(1500)]
    pairs = list(zip(seen[::2], seen[1::2], strict=True))
    assert all(torch.equal(a, b) and len(a) == 4 for a, b in pairs)
    m = 0.3 * data  # E_q of -log p(x, z) + log q(z), in closed form
    exact = ((m**2 + 0.5 + (data - m) ** 2 + 0.5) / 2 + 0.9189 - 0.5 - 0.5 * torch.log(t(0.5))).sum()
    assert sum(losses) / len(losses) == pytest.approx(exact.item(), rel=0.03)
    with pyro.plate("data", 10) as index:  # outside of a run nothing is in use
        assert len(index) == 10


def test_programs_that_choose_their_backend():
    def model(data):
        loc = pyroapi.pyro.sample("loc", pyroapi.distributions.Normal(0.0, 1.0))
        with pyroapi.pyro.plate("data", len(data), dim=-1):
            pyroapi.pyro.sample("x", pyroapi.distributions.Normal(loc, 1.0), obs=data)

    def guide(data):
        loc = pyroapi.pyro.param("m", t(0.0))
        scale = pyroapi.ops.exp(pyroapi.pyro.param("s", t(0.0)))
        pyroapi.pyro.sample("loc", pyroapi.distributions.Normal(loc, scale))

    torch.manual_seed(0)
    data = torch.randn(100) + 3.0
    for name in ("pyro", "minipyro"):
        with pyroapi.pyro_backend(name):
            svi = pyroapi.infer.SVI(model, guide, pyroapi.optim.Adam({"lr": 0.05}), pyroapi.infer.Trace_ELBO())
            for _ in range(200):
                svi.step(data)
        assert pyroapi.pyro.param("m").item() == pytest.approx(data.sum().item() / 101, abs=0.1)
    with pytest.raises(VarigradError, match="no backend 'jax'"), pyroapi.pyro_backend("jax"):
        pass


def test_a_network_that_counts_objects():
    """Steps that may or may not happen, masks from discrete choices, baselines by a recurrent network."""

    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.LSTMCell(1, 8)
            self.present = torch.nn.Linear(8, 1)
            self.baseline_cell = torch.nn.LSTMCell(1, 8)
            self.baseline = torch.nn.Linear(8, 1)

        def forward(self, x):
            pyro.module("guide", self)
            with pyro.plate("data", len(x)):
                h = c = torch.zeros(len(x), 8)
                bh = bc = torch.zeros(len(x), 8)
                present = torch.ones(len(x), 1)
                for i in range(3):
                    h, c = self.cell(x.unsqueeze(-1), (h, c))
                    bh, bc = self.baseline_cell(x.unsqueeze(-1).detach(), (bh.detach(), bc.detach()))
                    value = self.baseline(bh).squeeze(-1)
                    probs = self.present(h).sigmoid() * present
                    present = pyro.sample(
                        f"present_{i}",
                        dist.Bernoulli(probs).to_event(1),
                        infer={"baseline": {"baseline_value": value}},
                    )

    def model(x):
        with pyro.plate("data", len(x)):
            present, total = torch.ones(len(x), 1), torch.zeros(len(x))
            for i in range(3):
                present = pyro.sample(f"present_{i}", dist.Bernoulli(0.5 * present).to_event(1))
                total = total + present.squeeze(-1)
            pyro.sample("x", dist.Normal(total, 0.3), obs=x)

    def rates(name):
        return {"lr": 0.05 if "baseline" in name else 0.02}

    torch.manual_seed(0)
    x = torch.arange(4.0).repeat(8) + 0.1 * torch.randn(32)
    guide = Guide()
    svi = SVI(model, guide, Adam(rates), TraceGraph_ELBO())
    losses = [svi.step(x) for _ in range(300)]
    assert sum(losses[-20:]) / 20 < 0.4 * sum(losses[:20]) / 20
    assert sum(len(g.params) for g in svi.optim._groups) == len(list(guide.parameters()))


def test_an_autoencoder_with_modules_in_both_programs():
    torch.manual_seed(0)
    data = (torch.rand(64, 10) < torch.linspace(0.1, 0.9, 10)).float()
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10))
    encoder = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    svi = SVI(model, guide, Adam({"lr": 1e-2}), Trace_ELBO())
    first = svi.evaluate_loss(data)
    for _ in range(100):
        for batch in data.split(32):
            svi.step(batch)
    assert svi.evaluate_loss(data) < 0.9 * first
    assert "decoder$$$0.weight" in pyro.get_param_store()
    alpha = pyro.param("alpha", t(1.0), constraint=constraints.positive)
    assert alpha.unconstrained() is pyro.get_param_store()._params["alpha"]


def test_parameters_of_a_programs_own_stay_its_own():
    """What requires a gradient is taken into the store as it is, and may be used directly; data are copied."""
    state = torch.nn.Parameter(t([0.0]))
    data = t([5.0])

    def guide():
        pyro.param("state", state)
        pyro.param("unused", data)
        pyro.sample("z", dist.Normal(state, 1.0).to_event(1))

    svi = SVI(lambda: pyro.sample("z", dist.Normal(t([3.0]), 1.0).to_event(1)), guide, SGD({"lr": 0.02}), Trace_ELBO())
    torch.manual_seed(0)
    for _ in range(300):
        svi.step()
    assert state.item() == pytest.approx(3.0, abs=0.5)
    assert pyro.param("state") is state
    assert not data.requires_grad
