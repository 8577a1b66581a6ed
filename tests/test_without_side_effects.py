"""Looking changes nothing, bit for bit, and the first call leaves nothing behind but the step that it takes."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import DisARM, LeaveOneOut, MovingAverage, Score
from varigrad.objectives.reachable_state import reachable_from
from varigrad.objectives.without_side_effects import preserving_programs

torch.manual_seed(0)
DATA = torch.randn(12, 3)


class Cells:
    """A network with batch norm and dropout, minibatches, and a program that draws from numpy if asked to."""

    def __init__(self, kind):
        torch.manual_seed(5)
        self.kind = kind
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.own = np.random.default_rng(3)

    def plate(self):
        return vg.plate("n", 12, subsample_size=6 if self.kind == "minibatches" else None)

    def model(self, x):
        with self.plate():
            batch = vg.subsample(x, 1)
            z = vg.sample("z", dist.Bernoulli(torch.full((len(batch),), 0.4)))
            shift = 0.01 * (np.random.normal() + random.random() + self.own.normal()) if self.kind == "numpy" else 0.0
            vg.sample("x", dist.Normal(z + float(shift), 1.0), obs=batch[:, 0])

    def guide(self, x, estimator=None):
        if self.kind != "plain":
            vg.module("net", self.net)
        with self.plate():
            batch = vg.subsample(x, 1)
            logits = vg.param("t", lambda: torch.randn(12)) if self.kind == "plain" else self.net(batch)[:, 0]
            vg.sample("z", dist.Bernoulli(logits=logits), estimator=self.estimator)


KINDS = ("plain", "network", "minibatches", "numpy")
ESTIMATORS = {"average": Score(MovingAverage()), "leave_one_out": LeaveOneOut(2), "disarm": DisARM()}


def seeded():
    torch.manual_seed(3)
    random.seed(1)
    np.random.seed(2)


def everything(cells, bound):
    """All that a look might change, as bytes and numbers."""
    tensors = [*bound.parameters(), *cells.net.parameters(), *cells.net.buffers(), torch.get_rng_state()]
    numbers = [t.detach().numpy().tobytes() for t in tensors]
    grads = [None if p.grad is None else p.grad.numpy().tobytes() for p in bound.parameters()]
    states = [t.tolist() for t in torch.utils._pytree.tree_leaves(dict(bound.estimator_states))]
    generator = torch.utils._pytree.tree_leaves(bound.source.get_state())
    own = [g.tolist() if isinstance(g, torch.Tensor) else g for g in generator]
    modes = [(m.training, [p.requires_grad for p in m.parameters()]) for m in cells.net.modules()]
    python = random.getstate(), np.random.get_state()[1].tolist(), str(cells.own.bit_generator.state)
    return numbers, grads, states, own, modes, python, bound.steps


LOOKS = {
    "plan": lambda svi: svi.plan(DATA),
    "explain": lambda svi: svi.explain(),
    "evaluate": lambda svi: svi.evaluate(DATA, particles=2),
    "terms": lambda svi: svi.bound.terms(DATA),
    "diagnose": lambda svi: svi.bound.diagnose(DATA),
    "gradients": lambda svi: svi.bound.gradients(2, DATA),
}


def run(kind, estimator, compile, look=lambda svi: None):
    cells = Cells(kind)
    cells.estimator = ESTIMATORS[estimator]
    seeded()
    svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=0, compile=compile)
    losses = []
    for step in range(13):
        if step in (1, 4, 10, 11):
            look(svi)
        losses.append(svi.step(DATA))
    look(svi)
    svi.state()  # what a compiled step keeps elsewhere comes back
    return losses, everything(cells, svi.bound)


PLAIN = {}


def without(kind, estimator, compile):
    """The run that nobody looks at."""
    key = kind, estimator, compile
    if key not in PLAIN:
        PLAIN[key] = run(*key)
    return PLAIN[key]


@pytest.mark.filterwarnings("ignore:steps run eagerly")
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("compile", [False, "wait"])
@pytest.mark.parametrize("kind", KINDS)
def test_looking_changes_nothing(kind, compile, look):
    for estimator in ESTIMATORS if kind in ("plain", "network") and not compile else ("average",):
        assert run(kind, estimator, compile, LOOKS[look]) == without(kind, estimator, compile)


@pytest.mark.parametrize("kind", KINDS)
def test_a_monitor_and_a_comparison_change_nothing(kind):
    def go(compare, monitor):
        cells = Cells(kind)
        cells.estimator = ESTIMATORS["average"]
        seeded()
        svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=0)
        first = svi.run(6, DATA, progress=False, monitor=monitor).losses
        if compare:
            vg.compare(cells.model, cells.guide, DATA, {"z": [Score(), LeaveOneOut(2)]}, at=svi.bound, budget=12)
        return [*first.tolist(), *svi.run(6, DATA, progress=False).losses.tolist()], everything(cells, svi.bound)

    plain = go(False, None)
    assert go(False, vg.Gradients(every=2)) == plain
    assert go(True, None) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_looking_changes_nothing_in_a_loop_of_ones_own(kind):
    """Draws come from torch's global generator, and a loss is differentiated after others have looked."""

    def loop(look):
        cells = Cells(kind)
        cells.estimator = ESTIMATORS["average"]
        seeded()
        bound = vg.ELBO()(cells.model, cells.guide).init(DATA)
        optimiser = torch.optim.Adam(bound.parameters(), 0.02)
        losses = []
        for _ in range(12):
            optimiser.zero_grad()
            loss = bound(DATA)
            if look:
                (
                    bound.evaluate(DATA),
                    bound.plan(DATA),
                    bound.terms(DATA),
                    bound.diagnose(DATA),
                    bound.gradients(2, DATA),
                )
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses, everything(cells, bound)

    assert loop(True) == loop(False)


def test_evaluations_differ_from_each_other_and_can_be_repeated():
    def numbers():
        cells = Cells("network")
        cells.estimator = ESTIMATORS["average"]
        svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=4)
        found = [svi.evaluate(DATA) for _ in range(3)]
        svi.step(DATA)
        return [*found, svi.evaluate(DATA)]

    assert len(set(numbers())) == 4
    assert numbers() == numbers()


def test_terms_are_those_of_the_next_step():
    cells = Cells("plain")
    cells.estimator = ESTIMATORS["average"]
    svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=4)
    for _ in range(3):
        total = sum(svi.bound.terms(DATA).values())
        assert float(-total) == pytest.approx(svi.step(DATA), rel=1e-6)


# The first call


@pytest.mark.parametrize("make", ["init", "explore"])
@pytest.mark.parametrize("kind", KINDS)
def test_finding_out_leaves_nothing_behind(kind, make):
    cells = Cells(kind)
    cells.estimator = ESTIMATORS["leave_one_out"]
    bound = vg.ELBO()(cells.model, cells.guide)
    bound.init(DATA)  # the parameters, and the draws of their initial values
    for parameter in bound.parameters():
        parameter.grad = torch.ones_like(parameter)
    cells.net[3].weight.requires_grad_(False)
    cells.net[2].eval()
    before = everything(cells, bound)
    grads = [p.grad for p in bound.parameters()]
    places = [(id(t), t.data_ptr(), t._version) for t in (*bound.parameters(), *cells.net.buffers())]
    getattr(bound, make)(DATA)
    assert everything(cells, bound) == before
    assert all(p.grad is g for p, g in zip(bound.parameters(), grads, strict=True))
    after = [(id(t), t.data_ptr(), t._version) for t in (*bound.parameters(), *cells.net.buffers())]
    assert [p[:2] for p in after] == [p[:2] for p in places]


@pytest.mark.filterwarnings("ignore:steps run eagerly")
@pytest.mark.parametrize("compile", [False, "wait"])
def test_a_step_updates_averages_once(compile):
    cells = Cells("network")
    cells.estimator = ESTIMATORS["average"]
    svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=0, compile=compile)
    twin = copy.deepcopy(cells.net)
    twin(DATA)
    svi.step(DATA)
    assert torch.equal(cells.net[1].running_mean, twin[1].running_mean)
    for _ in range(11):
        svi.step(DATA)
    assert int(cells.net[1].num_batches_tracked) == 12


def test_a_first_step_that_fails_leaves_everything_as_it_was():
    cells = Cells("network")
    cells.estimator = ESTIMATORS["average"]
    svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=0)
    seeded()
    before = everything(cells, svi.bound)
    numbers = copy.deepcopy(cells.net.state_dict())
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        svi.step(DATA[:1])
    assert everything(cells, svi.bound)[2:] == before[2:]
    assert all(torch.equal(numbers[name], now) for name, now in cells.net.state_dict().items())


def test_equal_seeds_give_equal_first_and_later_calls():
    cells = Cells("network")
    cells.estimator = ESTIMATORS["leave_one_out"]
    cells.net.eval()
    bound = vg.ELBO()(cells.model, cells.guide)
    losses = []
    for _ in range(3):
        torch.manual_seed(1)
        losses.append(float(bound(DATA).detach()))
    assert losses[0] == losses[1] == losses[2]


def noisy_start():
    def model():
        a = vg.sample("a", dist.Normal(0.0, 1.0))
        b = vg.sample("b", dist.Normal(a, 1.0))
        vg.sample("x", dist.Normal(b, 1.0), obs=torch.tensor(0.3))

    def guide(*args):
        vg.sample("a", dist.Normal(vg.param("p", lambda: torch.randn(())), 1.0))
        vg.sample("b", dist.Normal(vg.param("q", lambda: torch.randn(())), 1.0))

    return model, guide


def test_initial_values_are_drawn_once_in_the_order_of_the_program():
    torch.manual_seed(7)
    p, a, q, b = (torch.randn(()) for _ in range(4))
    # As a step by hand: the value of p, the draw of a, the value of q, the draw of b.
    log = dist.Normal(0.0, 1.0).log_prob
    value = log(p + a) + log(q + b - p - a) + log(torch.tensor(0.3) - q - b) - log(a) - log(b)
    bound = vg.ELBO()(lambda *args: noisy_start()[0](), noisy_start()[1])
    torch.manual_seed(7)
    loss = bound()
    found = dict(bound.named_parameters())
    assert torch.equal(found["p"].detach(), p) and torch.equal(found["q"].detach(), q)
    assert torch.allclose(loss.detach(), -value)


def test_initial_values_that_are_asked_for_at_once_count_as_drawn():
    model, guide = noisy_start()
    torch.manual_seed(7)
    first, second, third = (torch.randn(()) for _ in range(3))
    torch.manual_seed(7)
    bound = vg.ELBO()(lambda *args: model(), guide).init()
    found = dict(bound.named_parameters())
    assert torch.equal(found["p"].detach(), first) and torch.equal(found["q"].detach(), second)
    assert torch.equal(torch.randn(()), third)


def test_an_automatic_guide_draws_where_it_starts_once():
    import varigrad.compat.pyro as pyro
    import varigrad.compat.pyro.distributions as pdist
    from varigrad.compat.pyro.infer import SVI, Trace_ELBO
    from varigrad.compat.pyro.infer.autoguide import AutoNormal, init_to_sample

    def model():
        pyro.sample("z", pdist.Normal(0.0, 1.0))

    def start(before):
        pyro.clear_param_store()
        guide = AutoNormal(model, init_loc_fn=init_to_sample)
        pyro.set_rng_seed(3)
        before(guide)
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 1e-9}), Trace_ELBO())
        return [svi.step() for _ in range(2)]

    # Built by hand before the first step, or by the first step: the same numbers.
    assert start(lambda guide: guide()) != start(lambda guide: None)
    assert start(lambda guide: guide._ready((), {})) == start(lambda guide: None)
    pyro.clear_param_store()


# The tool


class Box:
    """Does not show what it holds."""

    __slots__ = ("net",)

    def __init__(self):
        self.net = nn.BatchNorm1d(2)


def test_what_a_program_does_meanwhile_is_undone():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
    net[1].weight.grad = torch.ones(1, 2)
    kept = torch.zeros(3)
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(1)
    view = net[1].weight.data[0]
    hidden = Box()  # what is in it is found when it is called

    def program():
        torch.rand(()), np.random.rand(), random.random(), rng.normal(), torch.rand((), generator=generator)
        kept.add_(1.0)
        net.eval()
        net.train()
        net[0].eval()
        net(torch.randn(4, 2)).sum().backward()
        net[1].bias.requires_grad_(False)
        net[0].running_mean = torch.ones(2)
        hidden.net(torch.randn(4, 2))

    before = copy.deepcopy(net.state_dict()), kept.clone(), copy.deepcopy(hidden.net.state_dict())
    states = torch.get_rng_state(), random.getstate(), str(rng.bit_generator.state), generator.get_state()
    with preserving_programs(reachable_from((program,)), net.parameters(), seed=0):
        program()
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before[0].items())
    assert torch.equal(kept, before[1])
    assert all(torch.equal(hidden.net.state_dict()[k], v) for k, v in before[2].items())
    assert net[1].weight.grad.tolist() == [[1.0, 1.0]] and net[0].weight.grad is None
    assert net[1].bias.requires_grad and net[0].training and net.training
    assert view.data_ptr() == net[1].weight.data_ptr()
    now = torch.get_rng_state(), random.getstate(), str(rng.bit_generator.state), generator.get_state()
    assert torch.equal(states[0], now[0]) and states[1:3] == now[1:3] and torch.equal(states[3], now[3])


def test_an_interrupt_in_a_look_leaves_nothing_behind():
    net = nn.BatchNorm1d(2)
    calls = []

    def model(x):
        vg.module("net", net)
        z = vg.sample("z", dist.Bernoulli(torch.tensor(0.4)))
        net(x)
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        vg.sample("x", dist.Normal(z + net.weight.sum(), 1.0), obs=torch.tensor(0.3))

    def guide(x):
        vg.sample("z", dist.Bernoulli(logits=vg.param("t", 0.3)), estimator=LeaveOneOut(2))

    x = torch.randn(4, 2)
    stop = -1
    bound = vg.ELBO()(model, guide).init(x)
    number = len(calls)
    before = [p.detach().clone() for p in (*bound.parameters(), *net.buffers())]
    source, finding, state = bound.source, bound.discovered, torch.get_rng_state()
    for turn in range(1, number + 1):
        calls.clear()
        stop = turn
        with pytest.raises(KeyboardInterrupt):
            bound.init(x)
        assert all(torch.equal(a, b) for a, b in zip(before, (*bound.parameters(), *net.buffers()), strict=True))
        assert bound.source is source and bound.discovered is finding
        assert torch.equal(torch.get_rng_state(), state)


def test_an_interrupt_while_things_are_put_back_is_passed_on_afterwards():
    from varigrad.objectives import without_side_effects

    calls = []

    def restore():
        calls.append(1)
        if len(calls) < 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        without_side_effects._in_spite_of_interrupts(restore)
    assert len(calls) == 3


def test_looks_work_in_inference_mode():
    cells = Cells("network")
    cells.estimator = ESTIMATORS["average"]
    svi = vg.SVI(cells.model, cells.guide, vg.optim.Adam(lr=0.02), seed=0)
    svi.step(DATA)
    before = everything(cells, svi.bound)
    with torch.inference_mode():
        svi.evaluate(DATA)
        svi.plan(DATA)
    assert everything(cells, svi.bound) == before
    svi.step(DATA)
