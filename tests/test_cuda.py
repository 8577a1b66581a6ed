"""GPUs: the laws again on one, where there is one; and on any machine that nothing mixes devices (`elsewhere.py`)."""

import pytest
import torch
from elsewhere import PLACE, elsewhere
from test_laws import BIASED, ESTIMATORS

import varigrad as vg
from varigrad import distributions as dist
from varigrad.distributions.noise import Noise
from varigrad.distributions.source import Source
from varigrad.errors import SiteError
from varigrad.guides import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from varigrad.testing import PROGRAMS, check_case
from varigrad.testing.conformance import _warm

EVERY = {**ESTIMATORS, **BIASED}
FEW = {"bernoulli", "categorical", "normal"}


def _cases():
    for name in EVERY:
        for program in PROGRAMS:
            quick = name in ("score", "pathwise") or program in FEW
            marks = [] if quick else [pytest.mark.slow]
            yield pytest.param(name, program, marks=marks, id=f"{name}-{program}")


@pytest.mark.parametrize(("name", "program"), list(_cases()))
def test_nothing_mixes_devices(name, program):
    """Every estimator on every program, with all that the program makes elsewhere; the plan is that of the CPU."""
    estimator, case = EVERY[name], PROGRAMS[program]
    config = vg.ELBO(1 if estimator.coupling is None and not estimator.across_particles else 2, {"z*": estimator})
    try:
        plan = str(_warm(config, case, 0).plan(*case.args))
    except SiteError:
        return
    with elsewhere():
        there = _warm(config, case, 0)
        assert all(p.device == PLACE for p in there.parameters())
        found = there.estimate(*case.args)
        assert found.surrogate.device == PLACE
        torch.autograd.grad(found.surrogate, list(there.parameters()), allow_unused=True)
        assert str(there.plan(*case.args)) == plan


@pytest.mark.parametrize(("name", "program"), [("score", "chain"), ("enumerate", "one_hot"), ("disarm", "bernoulli")])
def test_the_mean_elsewhere_is_the_exact_gradient(name, program):
    with elsewhere():
        verdict = check_case(ESTIMATORS[name], program, PROGRAMS[program])
    assert verdict.how == "exact"
    assert verdict.passed, verdict


def _regression():
    x, y = torch.randn(20, 3), torch.randn(20)

    def model(x, y):
        w = vg.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        s = vg.sample("s", dist.HalfNormal(torch.ones(())))
        with vg.plate("n", 20, 5):
            vg.sample("y", dist.Normal(vg.subsample(x @ w, 0), s), obs=vg.subsample(y, 0))

    return model, x, y


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal])
def test_a_run_elsewhere_goes_on_bit_for_bit(guide):
    with elsewhere():
        model, x, y = _regression()
        svi = vg.SVI(model, guide(model), vg.optim.Adam(lr=0.1, clip_norm=1.0), seed=0)
        svi.step(x, y)
        assert all(p.device == PLACE for p in svi.bound.parameters())
        state = svi.state()
        assert set(state["generator"]) == {"root", str(PLACE)}
        after = [svi.step(x, y) for _ in range(3)]
        svi.load_state(state)
        assert [svi.step(x, y) for _ in range(3)] == after
        other = vg.SVI(model, guide(model), vg.optim.Adam(lr=0.1, clip_norm=1.0), seed=5)
        other.init(x, y)
        other.load_state(state)
        assert [other.step(x, y) for _ in range(3)] == after


def test_under_a_default_device():
    """As after `torch.set_default_device("cuda")`: what no device is named for is there, the library's own too."""
    with elsewhere(), PLACE:
        model, x, y = _regression()
        vg.SVI(model, AutoNormal(model), vg.optim.Adam(lr=0.1), seed=0).run(3, x, y)


def test_minibatches_index_tensors_anywhere():
    """Indices are drawn on the CPU: torch takes these into tensors of any device, and no others into the CPU's."""
    with elsewhere():
        there, here = torch.randn(10), torch.randn(10, device="cpu")

        def model():
            m = vg.sample("m", dist.Normal(torch.zeros(()), 1.0))
            with vg.plate("n", 10, 4) as chosen:
                vg.sample("x", dist.Normal(m, 1.0), obs=there[chosen])
                vg.sample("y", dist.Normal(m, 1.0), obs=here[chosen].to(PLACE))

        def guide():
            vg.sample("m", dist.Normal(vg.param("loc", lambda: torch.zeros(())), 1.0))

        vg.SVI(model, guide, vg.optim.Adam(lr=0.1), seed=0).run(3)


def test_each_device_has_a_generator_of_its_own():
    here = torch.zeros(())
    alone = Source(torch.Generator().manual_seed(3))
    numbers = alone.normal((5,), here)
    assert isinstance(alone.get_state(), torch.Tensor)
    with elsewhere():
        there = torch.zeros(())
        source = Source(torch.Generator().manual_seed(3))
        start = source.get_state()
        assert torch.equal(source.normal((5,), here), numbers)  # others change nothing here
        source.set_state(start)
        first = source.normal((5,), there)
        middle = source.get_state()
        second = source.normal((5,), there)
        assert not torch.equal(first, second)
        source.set_state(middle)
        assert torch.equal(source.normal((5,), there), second)
        source.set_state(start)
        assert torch.equal(source.normal((5,), there), first)  # it comes into being again, with the same seed


def test_rows_elsewhere_are_the_same_however_many_are_drawn():
    with elsewhere():
        like = torch.zeros((), dtype=torch.float64)
        noise = Noise(0)
        start = noise.get_state()
        noise.measure()
        pieces = [noise.normal((3, 2), like).reshape(-1), noise.normal((5000,), like), noise.uniform((7,), like)]
        demand = noise.demand
        assert demand == {("normal", torch.float64, "meta"): 8192, ("uniform", torch.float64, "meta"): 4096}
        noise.set_state(start)
        blocks = noise.rows(demand, 3)
        noise.set_state(start)
        singly = [noise.rows(demand, 1) for _ in range(3)]
        for kind, block in blocks.items():
            assert torch.equal(block, torch.cat([row[kind] for row in singly]))
        normal, uniform = blocks.values()
        assert torch.equal(normal[0, :5006], torch.cat(pieces[:2]))
        assert torch.equal(uniform[0, :7], pieces[2])
