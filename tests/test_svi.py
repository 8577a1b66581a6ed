"""The loop: it fits, takes any optimiser, repeats bit for bit, and can be stopped, saved, copied and resumed."""

import copy
import gc
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import matplotlib.figure
import programs_for_svi as programs
import pytest
import torch
from programs_for_svi import DATA, mixed_svi, normal_guide, normal_model, numbers

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import ParameterError
from varigrad.estimators import LeaveOneOut, MovingAverage, Pathwise, Score

positive = dist.constraints.positive
N = len(DATA)
MEAN, SD = DATA.sum() / (N + 1), (N + 1) ** -0.5
EVIDENCE = dist.MultivariateNormal(torch.zeros(N), torch.eye(N) + 1).log_prob(DATA)

ADAM = vg.optim.Adam(lr=0.05)
OPTIMISERS = {
    "Adam": (ADAM, 500),
    "SGD": (vg.optim.SGD(lr=0.01, momentum=0.5), 500),
    "Optimizer": (vg.optim.Optimizer(torch.optim.RMSprop, {"lr": 0.01}), 500),
    "callable": (lambda parameters: torch.optim.NAdam(parameters, lr=0.05), 500),
    "schedule": (vg.optim.Adam(lr=0.2, schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.99)), 500),
    "clip_norm": (vg.optim.SGD(lr=0.05, clip_norm=1.0), 500),
    "LBFGS": (lambda parameters: torch.optim.LBFGS(parameters, lr=0.5), 30),
}


def svi_of(optim=ADAM, model=normal_model, guide=normal_guide, seed=0, skip_nonfinite=False, **options):
    return vg.SVI(model, guide, optim, vg.ELBO(**options), seed=seed, skip_nonfinite=skip_nonfinite)


# Fitting


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_optimiser_finds_the_posterior(name):
    optim, steps = OPTIMISERS[name]
    landing = {"z": Pathwise(sticking_the_landing=True)}  # no noise at the optimum, so the tolerance is the optimiser's
    seed = 2 if name == "LBFGS" else 0  # a line search on one draw may run off with other draws
    fit = svi_of(optim, estimators=landing, seed=seed).run(steps, DATA)
    assert torch.allclose(fit.parameters["loc"], MEAN, atol=0.02)
    assert torch.allclose(fit.parameters["scale"], torch.tensor(SD), atol=0.02)


@pytest.mark.parametrize("options", [{}, {"particles": 3}, {"analytic_kl": True}], ids=str)
def test_the_bound_is_right(options):
    """At any guide the ELBO is the evidence less the divergence to the posterior; mean of 1000 draws, 5 sigma."""
    svi = svi_of(**options).init(DATA)
    bound = torch.tensor([-svi.evaluate(DATA) for _ in range(1000 // options.get("particles", 1))])
    posterior, guide = dist.Normal(MEAN, SD), dist.Normal(0.5, 0.7)
    exact = EVIDENCE - dist.kl_divergence(guide, posterior)
    assert abs(bound.mean() - exact) < 5 * bound.std() / len(bound) ** 0.5
    assert abs(-svi.evaluate(DATA, particles=400) - exact) < 10 * bound.std() / 400**0.5


def test_evaluate_changes_nothing():
    svi = mixed_svi()
    svi.step()
    before = copy.deepcopy(svi.state())
    svi.evaluate(particles=3)
    after = svi.state()
    before.pop("generator"), after.pop("generator")
    assert same(before, after)


def test_run_reports():
    seen = []
    fit = svi_of().run(20, DATA, callback=seen.append)
    assert [m.step for m in seen] == list(range(1, 21))
    assert fit.losses.tolist() == [m.loss for m in seen]
    assert all(m.gradient_norm > 0 and not m.skipped for m in seen)
    assert "20 steps in" in str(fit)
    for word in ("loc", "scale", "loss over the last"):
        assert word in str(fit)
    assert isinstance(fit.plot(), matplotlib.figure.Figure)
    assert svi_of().run(20, DATA, callback=lambda m: m.step == 5).losses.shape == (5,)


def test_the_bar_is_quiet_unless_asked(capfd):
    svi_of().run(3, DATA)
    assert capfd.readouterr() == ("", "")
    svi_of().run(3, DATA, progress=True)
    assert "3/3" in capfd.readouterr().err


def test_an_interrupted_run_keeps_its_steps():
    def interrupt(metrics):
        if metrics.step == 4:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 4 of 9 steps"):
        fit = svi_of().run(9, DATA, callback=interrupt)
    assert len(fit.losses) == 4


def test_a_fit_samples_its_guide():
    fit = svi_of().run(1, DATA)
    draws = fit.sample(4000)["z"]
    loc, scale = fit.parameters["loc"], fit.parameters["scale"]
    assert draws.shape == (4000,)
    assert abs(draws.mean() - loc) < 5 * scale / 4000**0.5
    assert abs(draws.std() / scale - 1) < 5 / 8000**0.5
    assert fit.sample(2, DATA[:1])["z"].shape == (2,)
    assert mixed_svi().run(2).sample(3)["group"].shape == (3, 3)


def test_a_loader_gives_the_arguments():
    seen = []

    def model(x, y):
        seen.append((x, y))
        normal_model(x)

    pairs = torch.utils.data.TensorDataset(DATA, torch.arange(6))
    loader = torch.utils.data.DataLoader(pairs, batch_size=2)
    svi_of(model=model, guide=lambda x, y: normal_guide()).run(4, loader)
    starts = [int(y[0]) for _, y in seen]
    assert starts[-4:] == [0, 2, 4, 0]
    svi_of(model=normal_model).run(4, torch.utils.data.DataLoader(DATA, batch_size=4))  # the last batch is smaller


# Optimisers and parameters


def test_a_bound_of_ones_own_is_trained_with_its_parameters():
    bound = vg.ELBO()(normal_model, normal_guide).init(DATA)
    svi = vg.SVI(normal_model, normal_guide, ADAM, bound, seed=0)
    svi.step(DATA)
    assert bound.loc != 0.5
    assert torch.equal(svi.run(5, DATA).parameters["loc"], bound.loc)


def test_options_go_by_name():
    options = lambda name: {"lr": 1e-9} if name == "loc" else {}  # noqa: E731
    svi = svi_of(vg.optim.Adam(lr=0.1, options=options))
    fit = svi.run(10, DATA)
    assert abs(fit.parameters["loc"] - 0.5) < 1e-6
    assert abs(fit.parameters["scale"] - 0.7) > 0.05
    assert [g["lr"] for g in svi.optimizer.param_groups] == [1e-9, 0.1]


def test_schedules_and_clipping_act():
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1)
    svi = svi_of(vg.optim.SGD(lr=1.0, clip_norm=1e-3, schedule=schedule))
    before = svi.init(DATA).bound.get_parameter("loc").item()
    svi.step(DATA)
    assert svi.metrics.gradient_norm > 1e-3  # reported as it was
    moved = [abs(svi.bound.get_parameter("loc").item() - before)]
    assert 0 < moved[0] <= 1.001e-3
    svi.run(3, DATA)
    assert svi.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


def likelihood(data=DATA):
    """No latent site: the objective is exact, as a line search wants it."""
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(vg.param("loc", 0.5), 1.0), obs=data)


@pytest.mark.parametrize("scale", [1.0, 1024.0], ids=["plain", "scaled"])
@pytest.mark.parametrize(
    ("kind", "rate", "model", "guide", "wanted"),
    [
        (torch.optim.Adam, 0.1, normal_model, normal_guide, MEAN),
        (torch.optim.SGD, 0.02, normal_model, normal_guide, MEAN),
        (torch.optim.LBFGS, 0.5, likelihood, lambda data: None, DATA.mean()),
    ],
)
def test_a_loop_of_ones_own(kind, rate, model, guide, wanted, scale):
    """`loss` is a torch module: any optimiser takes its parameters, GradScaler multiplies it before `backward`."""
    torch.manual_seed(0)
    estimators = {"z*": Pathwise(sticking_the_landing=True)}
    loss = vg.ELBO(estimators=estimators)(model, guide).init(DATA)
    optimiser = kind(loss.parameters(), lr=rate)

    def closure():
        optimiser.zero_grad()
        value = loss(DATA)
        (value * scale).backward()
        for parameter in loss.parameters():
            parameter.grad /= scale
        return value

    for _ in range(300):
        optimiser.step(closure)
    assert abs(loss.loc - wanted) < 0.02


def test_grad_scaler_takes_the_loss():
    loss = vg.ELBO()(normal_model, normal_guide).init(DATA)
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    before = loss.loc.item()
    scaler.scale(loss(DATA)).backward()
    scaler.step(optimiser)
    scaler.update()
    assert loss.loc.item() != before


def test_the_value_is_minus_the_bound():
    loss = vg.ELBO(estimators={"z": Score(MovingAverage())})(normal_model, normal_guide).init(DATA)
    torch.manual_seed(3)
    value = loss(DATA)
    torch.manual_seed(3)
    terms = loss.terms(DATA)
    assert terms.keys() == {"z", "x"}
    assert torch.allclose(-sum(terms.values()), value)


@pytest.mark.parametrize(
    "build", [lambda: svi_of().bound.init(), lambda: vg.ELBO()(normal_model, normal_guide).init(DATA)]
)
def test_it_is_a_module(build):
    bound = build()
    assert set(dict(bound.named_parameters())) == {"loc", "scale"}
    twin = build()
    with torch.no_grad():
        twin.loc.fill_(9.0)
    twin.load_state_dict(bound.state_dict())
    assert torch.equal(twin.loc, bound.loc)
    bound.to(torch.float64)
    assert {p.dtype for p in bound.parameters()} == {torch.float64}
    value = bound(DATA.double())
    value.backward()
    assert value.dtype == torch.float64
    assert bound.loc.grad.dtype == torch.float64


def test_parameters_exist_before_the_first_step():
    no_arguments = vg.SVI(lambda: normal_model(), lambda: normal_guide(), ADAM)
    assert set(dict(no_arguments.bound.named_parameters())) == {"loc", "scale"}
    guide = programs.MixedGuide()
    bound = vg.SVI(programs.mixed_model, guide, ADAM, seed=0).init().bound
    names = {"m", "s", "guide.net.weight", "guide.net.bias", "baselines.group.1.weight", "baselines.group.1.bias"}
    assert set(dict(bound.named_parameters())) == names
    assert bound.get_parameter("guide.net.weight") is guide.net.weight


def test_a_parameter_that_turns_up_later_is_optimised():
    def model(more):
        vg.sample(
            "x", dist.Normal(vg.param("a", 0.0) + (vg.param("b", 0.0) if more else 0.0), 1.0), obs=torch.tensor(9.0)
        )

    svi = vg.SVI(model, lambda more: None, vg.optim.SGD(lr=0.1), seed=0)
    svi.step(False)
    svi.step(True)
    assert svi.bound.get_parameter("b").item() > 0


# Weights, terms, closed-form divergences


def test_weights_multiply_terms():
    plain, half = svi_of().bound.init(DATA), svi_of(weights={"z": 0.5}).bound.init(DATA)
    one, other = plain.terms(DATA), half.terms(DATA)
    assert torch.allclose(other["z"], 0.5 * one["z"])
    assert torch.allclose(other["x"], one["x"])


@pytest.mark.parametrize("weight", [lambda step: min(1.0, step / 4), lambda step: torch.tensor(step / 4).clamp(max=1)])
def test_a_weight_may_anneal(weight):
    svi = svi_of(weights={"z": weight}, analytic_kl=True, particles=1)
    seen = []
    for _ in range(6):
        parameters = svi.init(DATA).bound if not seen else svi.bound
        values = dict(parameters.constrained_values())
        kl = dist.kl_divergence(dist.Normal(values["loc"], values["scale"]), dist.Normal(0.0, 1.0))
        seen.append(float(-svi.bound.terms(DATA)["z"] / kl))
        svi.step(DATA)
    assert seen == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])


@pytest.mark.parametrize("estimator", [Pathwise(), Score(), Score(MovingAverage()), LeaveOneOut(3)], ids=repr)
@pytest.mark.parametrize("kl", [False, True, ("z",)], ids=str)
def test_the_gradient_is_right_with_and_without_closed_form(estimator, kl):
    """Mean gradient at (0.5, 0.7) against the exact one; 1500 draws, |t| < 5: false alarm below 1e-5 for all."""
    loc, free = torch.tensor(0.5, requires_grad=True), torch.tensor(0.7).log().requires_grad_()
    exact = EVIDENCE - dist.kl_divergence(dist.Normal(loc, free.exp()), dist.Normal(MEAN, SD))
    wanted = torch.stack(torch.autograd.grad(-exact, (loc, free)))
    loss = vg.ELBO(particles=50, estimators={"z": estimator}, analytic_kl=kl)(normal_model, normal_guide).init(DATA)
    torch.manual_seed(0)
    found = torch.stack([torch.stack(torch.autograd.grad(loss(DATA), (loss.loc, loss.scale))) for _ in range(30)])
    error = (found.mean(0) - wanted).abs() / (found.std(0) / 30**0.5)
    assert (error < 5).all(), (found.mean(0), wanted)


# Reproducibility


def test_the_same_seed_gives_the_same_numbers():
    first, second, other = mixed_svi(7), mixed_svi(7), mixed_svi(8)
    torch.manual_seed(1)
    losses = first.run(20).losses
    torch.manual_seed(2)
    assert torch.equal(losses, second.run(20).losses)
    assert torch.equal(numbers(first), numbers(second))
    assert not torch.equal(losses, other.run(20).losses)


def test_a_second_process_gives_the_same_numbers():
    svi = mixed_svi(7)
    svi.run(20)
    script = Path(programs.__file__)
    out = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=script.parent).stdout
    assert out.strip() == numbers(svi).numpy().tobytes().hex()


def test_a_seed_may_come_from_torch_and_steps_leave_its_generator_alone():
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        svi = mixed_svi(None)
        state = torch.random.get_rng_state()
        svi.run(5)
        assert torch.equal(torch.random.get_rng_state(), state)
        results.append(numbers(svi))
    assert torch.equal(*results)


def test_eight_threads_are_each_bit_equal_to_a_serial_run():
    def work(seed):
        svi = mixed_svi(seed, particles=1 + seed % 2)
        return svi.run(15).losses, numbers(svi)

    serial = [work(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for (losses, end), (losses_of_thread, end_of_thread) in zip(serial, pool.map(work, range(8)), strict=True):
            assert torch.equal(losses, losses_of_thread)
            assert torch.equal(end, end_of_thread)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


SCHEDULED = vg.optim.Adam(lr=0.02, schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=3))


def scheduled_svi(seed):
    return vg.SVI(programs.mixed_model, programs.MixedGuide(), SCHEDULED, seed=seed)


@pytest.mark.parametrize("build", [mixed_svi, scheduled_svi])
@pytest.mark.parametrize("via", ["state", "pickled state", "deepcopy", "pickle"])
def test_a_run_resumes_bit_for_bit(build, via):
    """Baselines, optimiser, schedule and generator go on as if nothing had happened."""
    svi = build(3)
    svi.run(6)
    if via == "deepcopy":
        other = copy.deepcopy(svi)
    elif via == "pickle":
        other = pickle.loads(pickle.dumps(svi))
    else:
        state = svi.state()
        state = pickle.loads(pickle.dumps(state)) if via == "pickled state" else state
        other = build(99).init()
        other.load_state(state)
    at_that_point = numbers(svi)
    losses = svi.run(6).losses
    assert not torch.equal(numbers(svi), at_that_point)
    assert torch.equal(other.run(6).losses, losses)
    assert torch.equal(numbers(other), numbers(svi))
    final, twin = svi.state(), other.state()
    assert same(final, twin)


def test_a_state_can_be_gone_back_to():
    svi = mixed_svi(3)
    svi.run(3)
    state = svi.state()
    losses = svi.run(4).losses
    svi.load_state(state)
    assert torch.equal(svi.run(4).losses, losses)


def test_a_state_of_other_programs_is_refused():
    with pytest.raises(ParameterError, match="the state does not fit these programs"):
        mixed_svi().init().load_state(svi_of().init(DATA).state())


PICKLED = {
    "svi": lambda: svi_of(),
    "svi after steps": lambda: svi_of().run(2, DATA) and mixed_svi(),
    "bound": lambda: vg.ELBO(particles=2)(normal_model, normal_guide).init(DATA),
    "fit": lambda: mixed_svi().run(3),
    "AutoNormal": lambda: vg.guides.AutoNormal(normal_model, DATA),
    "AutoDelta": lambda: vg.guides.AutoDelta(normal_model, DATA),
    "svi with AutoNormal": lambda: svi_of(guide=vg.guides.AutoNormal(normal_model)).run(2, DATA).bound,
    "ELBO": lambda: vg.ELBO(estimators={"z": Score(MovingAverage(0.5))}, weights={"z": 0.1}),
    "optimiser": lambda: SCHEDULED,
    "error": lambda: ParameterError("is wrong", site="x", because="of this", try_="that"),
    "handled program": lambda: vg.handlers.condition(vg.handlers.seed(normal_model, seed=1), {"z": torch.tensor(1.0)}),
    "trace": lambda: vg.handlers.trace(normal_model)(),
    "plan": lambda: mixed_svi().plan(),
}


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", PICKLED)
def test_everything_copies_and_pickles(name, how):
    original = PICKLED[name]()
    twin = how(original)
    assert type(twin) is type(original)
    if isinstance(original, torch.nn.Module):
        mine, yours = dict(original.named_parameters()), dict(twin.named_parameters())
        assert mine.keys() == yours.keys()
        for key, parameter in mine.items():
            assert torch.equal(parameter, yours[key])
            assert parameter.data_ptr() != yours[key].data_ptr()


@pytest.mark.parametrize("options", [{}, {"particles": 2}, {"analytic_kl": True}], ids=str)
def test_nothing_grows(options):
    svi = mixed_svi(**options)
    counts = []
    for _ in range(4):
        svi.run(50)
        gc.collect()
        counts.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
    assert counts[1] == counts[2] == counts[3]


def test_no_step_leaves_a_graph_behind():
    svi = mixed_svi()
    svi.run(3)
    assert all(p.grad is None or p.grad.grad_fn is None for p in svi.bound.parameters())
    assert not any(t.requires_grad for t in svi.bound.buffers())
