"""Handlers: what each does, in a `with` block and around a program, composed in any order; stacks of one's own."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import SiteError
from varigrad.estimators import Pathwise
from varigrad.language.runtime import handlers_in_force

h = vg.handlers
t = torch.tensor
ONE, TWO = t(1.0), t(2.0)
positive = dist.constraints.positive


def program():
    """A param, a latent, a dependent latent in a plate, an observed site, a factor, a record."""
    m = vg.param("m", 0.5)
    a = vg.sample("a", dist.Normal(m, 1.0))
    with vg.plate("p", 2):
        b = vg.sample("b", dist.Normal(a, 1.0))
        vg.sample("x", dist.Normal(b, 1.0), obs=torch.zeros(2))
        vg.factor("f", b.square())
    return vg.deterministic("d", a + b.sum())


def around(handler, options):
    """The program with the handler around it."""
    return handler(program, **options)


def in_force(handler, options):
    """The program in a `with` block of the handler."""

    def run():
        with handler(**options):
            return program()

    return run


BOTH_WAYS = pytest.mark.parametrize("use", [around, in_force])
SCORED = ("a", "b", "x", "f")


def run_of(wrapped, seed=0):
    return h.trace(h.seed(wrapped, seed=seed))()


def density(message):
    """What a recorded site adds to the log-density."""
    value = message.distribution.log_prob(message.value) if hasattr(message, "distribution") else message.log_factor
    value = value if message.mask is None else torch.where(message.mask, value, 0.0)
    return (value * message.scale).sum()


# What each does


def test_trace_records_in_order_and_cannot_be_changed():
    run = run_of(program)
    assert list(run) == ["m", "a", "b", "x", "f", "d"]
    assert torch.equal(run.result, run["d"].value)
    assert list(run.samples) == ["a", "b", "x"]
    with pytest.raises(TypeError):
        run["a"] = run["b"]
    with pytest.raises(AttributeError):
        run["a"].value = ONE


@BOTH_WAYS
def test_replay(use):
    recorded = run_of(program, seed=1)
    for values in (recorded, recorded.latents, {"a": recorded["a"]}):
        run = run_of(use(h.replay, {"trace": values}))
        for name in ("a", "b"):
            assert torch.equal(run[name].value, recorded[name].value) is (name in values)
            assert not run[name].observed
        assert not run["x"].value.any()


def test_replay_repeats_minibatches():
    def subsampled():
        with vg.plate("p", 100, subsample_size=3) as indices:
            vg.sample("z", dist.Normal(0.0, 1.0))
            return indices

    recorded = h.trace(subsampled)()
    assert torch.equal(h.replay(subsampled, recorded)(), recorded.result)


@BOTH_WAYS
def test_condition_and_uncondition(use):
    run = run_of(use(h.condition, {"data": {"a": TWO, "x": t([3.0, 4.0])}}))
    assert run["a"].observed
    assert run["a"].value == 2
    assert run["x"].value.tolist() == [3.0, 4.0]
    assert list(run.latents) == ["b"]
    free = run_of(use(h.uncondition, {}))
    assert not free["x"].observed
    assert free["x"].value.all()
    again = run_of(h.uncondition(h.condition(program, {"a": TWO})))
    assert not again["a"].observed


@BOTH_WAYS
def test_substitute(use):
    run = run_of(use(h.substitute, {"values": {"m": ONE, "a": TWO, "x": t([9.0, 9.0])}}))
    assert run["m"].value == 1
    assert run["a"].value == 2
    assert not run["a"].observed
    assert not run["x"].value.any()  # data stay
    assert run["a"].distribution.loc == 1


@BOTH_WAYS
def test_do_leaves_the_site_and_changes_what_follows(use):
    run = h.trace(use(h.do, {"values": {"a": t(100.0)}}))()
    if use is around:  # inside the trace: the site keeps its own draw
        assert run["a"].value != 100
    assert (run["b"].value > 50).all()
    assert run["b"].distribution.loc.eq(100).all()
    assert run["a"].distribution.loc == 0.5


def is_observed(message):
    return getattr(message, "observed", False)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, []),
        ({"hide": ["a"]}, ["m", "b", "x", "f", "d"]),
        ({"hide": "[abx]"}, ["m", "f", "d"]),
        ({"expose": ["a", "d"]}, ["a", "d"]),
        ({"expose": "?"}, ["m", "a", "b", "x", "f", "d"]),
        ({"hide_if": is_observed}, ["m", "a", "b", "f", "d"]),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, dict) else None,
)
@BOTH_WAYS
def test_block(use, options, seen):
    assert list(h.trace(use(h.block, options))()) == seen


def test_block_hides_from_handlers_outside_only():
    inner, outer = h.condition(program, {"a": TWO}), h.block(h.condition(program, {"a": TWO}), hide=["a"])
    assert h.trace(inner)()["a"].value == 2
    assert outer() is not None
    conditioned = h.condition(h.block(program, hide=["a"]), {"a": t(77.0)})
    assert (h.trace(conditioned)()["b"].value < 50).all()


@BOTH_WAYS
def test_mask(use):
    run = run_of(use(h.mask, {"mask": False}))
    assert all(density(run[n]) == 0 for n in SCORED)
    half = run_of(use(h.mask, {"mask": t([True, False])}))
    assert half["b"].mask.tolist() == [True, False]
    twice = run_of(h.mask(use(h.mask, {"mask": t([True, False])}), mask=t([True, True])))
    assert twice["b"].mask.tolist() == [True, False]


@BOTH_WAYS
@pytest.mark.parametrize("factor", [0.5, t(0.5), t([0.5, 0.5])], ids=str)
def test_scale(use, factor):
    plain, scaled = run_of(program), run_of(h.scale(use(h.scale, {"scale": factor}), scale=4))
    for name in ("b", "x", "f"):
        assert torch.allclose(density(scaled[name]), 2 * density(plain[name]))


@BOTH_WAYS
def test_seed(use):
    state = torch.random.get_rng_state()
    first = h.trace(use(h.seed, {"seed": 3}))().latents
    second = h.trace(use(h.seed, {"seed": 3}))().latents
    other = h.trace(use(h.seed, {"seed": 4}))().latents
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[n], second[n]) and not torch.equal(first[n], other[n]) for n in first)
    assert first["b"].unique().numel() == 2


def test_a_seeded_program_starts_again_and_a_seeded_block_goes_on():
    seeded = h.seed(program, seed=0)
    assert torch.equal(seeded(), seeded())
    with h.seed(seed=0):
        assert not torch.equal(program(), program())


@BOTH_WAYS
def test_lift(use):
    run = run_of(use(h.lift, {"priors": {"m": dist.Normal(100.0, 1.0)}}))
    assert run["m"].value > 90
    assert "m" in run.latents
    assert torch.equal(run["a"].distribution.loc, run["m"].value)


def test_a_lifted_model_can_be_inferred():
    model = h.lift(lambda: vg.sample("x", dist.Normal(vg.param("m", 0.0), 1.0), obs=TWO), {"m": dist.Normal(0.0, 1.0)})
    guide = lambda: vg.sample("m", dist.Normal(vg.param("loc", 0.0), 0.5**0.5))  # noqa: E731
    exact = vg.ELBO(estimators={"m": Pathwise(sticking_the_landing=True)})  # no noise at the optimum
    fit = vg.SVI(model, guide, vg.optim.Adam(lr=0.05), exact, seed=0).run(500)
    assert abs(fit.parameters["loc"] - 1) < 0.01


@pytest.mark.parametrize("handler", [h.replay, h.condition, h.substitute, h.do, h.lift])
def test_a_handler_without_its_dictionary_says_so(handler):
    with pytest.raises(SiteError, match=r"is missing.*Try: a dictionary"):
        handler(program)


def test_block_takes_one_option():
    with pytest.raises(SiteError, match="block takes one of hide, expose and hide_if"):
        h.block(program, hide=["a"], expose=["b"])


def test_programs_keep_their_arguments_and_results():
    def takes(x, *, y):
        return x + y

    for wrap in (
        lambda p: h.replay(p, {}),
        lambda p: h.condition(p, {}),
        h.uncondition,
        lambda p: h.substitute(p, {}),
        lambda p: h.do(p, {}),
        h.block,
        lambda p: h.mask(p, mask=True),
        lambda p: h.scale(p, scale=2.0),
        lambda p: h.seed(p, seed=0),
        lambda p: h.lift(p, {}),
    ):
        assert wrap(takes)(1, y=2) == 3


# Composition

WRAPPERS = {
    "condition": lambda p: h.condition(p, {"a": TWO}),
    "scale": lambda p: h.scale(p, scale=3.0),
    "mask": lambda p: h.mask(p, mask=t([True, False])),
    "substitute": lambda p: h.substitute(p, {"m": ONE, "b": t([1.0, -1.0])}),
    "block": lambda p: h.block(p, hide=["d"]),
}


@pytest.mark.parametrize("order", list(itertools.permutations(WRAPPERS)), ids="-".join)
def test_handlers_that_touch_different_things_commute(order):
    wrapped = program
    for name in order:
        wrapped = WRAPPERS[name](wrapped)
    run = run_of(wrapped)
    assert list(run) == ["m", "a", "b", "x", "f"]
    assert run["a"].observed
    assert torch.allclose(density(run["b"]), 3 * dist.Normal(2.0, 1.0).log_prob(ONE))
    assert density(run["f"]) == 3
    assert run["m"].value == 1


def test_the_innermost_of_two_alike_counts():
    """It is asked first; one further out sees a value already there."""
    inner_first = h.condition(h.condition(program, {"a": ONE}), {"a": TWO})
    assert run_of(inner_first)["a"].value == 2  # condition overwrites: the last word is the outermost's
    assert run_of(h.substitute(h.substitute(program, {"a": ONE}), {"a": TWO}))["a"].value == 1
    with h.substitute(values={"a": TWO}), h.substitute(values={"a": ONE}):
        assert h.trace(program)()["a"].value == 1


def test_handlers_work_in_an_objective():
    """Scale, mask and condition around a model are what the loss is of."""
    guide = lambda: vg.sample("a", dist.Normal(vg.param("loc", 0.3), 1.0))  # noqa: E731
    fixed = h.condition(program, {"b": t([1.0, 2.0])})
    plain = vg.ELBO()(fixed, guide).terms()
    handled = vg.ELBO()(h.scale(h.mask(fixed, mask=t([True, False])), scale=2.0), guide)
    assert torch.allclose(handled.terms()["x"], 2 * dist.Normal(1.0, 1.0).log_prob(t(0.0)))
    assert handled.terms()["f"] == 2
    assert plain["f"] == 5


# The stack

EVERY = {
    **WRAPPERS,
    "trace": h.trace,
    "replay": lambda p: h.replay(p, {}),
    "uncondition": h.uncondition,
    "do": lambda p: h.do(p, {}),
    "seed": lambda p: h.seed(p, seed=0),
    "lift": lambda p: h.lift(p, {"m": dist.Normal(0.0, 1.0)}),
    "plate": lambda p: lambda: in_plate(p),
}


def in_plate(inner):
    with vg.plate("q", 2, dim=-3):
        return inner()


@pytest.mark.parametrize("name", EVERY)
def test_an_exception_leaves_the_stack_as_it_was(name):
    def fails():
        vg.sample("a", dist.Normal(0.0, 1.0))
        raise KeyError("mine")

    with h.scale(scale=2.0):
        before = handlers_in_force()
        with pytest.raises(KeyError, match="mine"):
            EVERY[name](fails)()
        assert handlers_in_force() == before
    assert handlers_in_force() == ()


def test_an_exception_in_a_step_leaves_the_stack_as_it_was():
    calls = []

    def model():
        calls.append(1)
        vg.sample("a", dist.Normal(0.0, 1.0))
        if len(calls) == 4:
            raise KeyError("mine")

    svi = vg.SVI(model, lambda: vg.sample("a", dist.Normal(vg.param("loc", 0.0), 1.0)), vg.optim.Adam(), seed=0)
    svi.step()
    with pytest.raises(KeyError, match="mine"):
        svi.run(9)
    assert handlers_in_force() == ()
    svi.step()


def test_a_scope_may_be_entered_again_and_inside_itself():
    scope = h.scale(scale=2.0)
    with scope, scope:
        run = h.trace(program)()
        assert len(handlers_in_force()) == 2
    with scope:
        assert len(handlers_in_force()) == 1
    assert handlers_in_force() == ()
    assert run["a"].scale == 4.0


def test_threads_have_stacks_of_their_own():
    barrier = Barrier(8)

    def work(number):
        assert handlers_in_force() == ()
        with h.condition(data={"a": t(float(number))}), h.seed(seed=number):
            barrier.wait(timeout=30)  # all eight are inside their blocks at once
            values = [h.trace(program)().result for _ in range(20)]
            count = len(handlers_in_force())
            barrier.wait(timeout=30)
        return count, handlers_in_force(), torch.stack(values)

    with h.scale(scale=2.0), ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(work, range(8)))
    barrier = Barrier(1)
    for number, (count, left, values) in enumerate(threaded):
        assert (count, left) == (2, ())
        assert torch.equal(values, work(number)[2])


def test_asyncio_tasks_have_stacks_of_their_own():
    async def work(number):
        with h.condition(data={"a": t(float(number))}):
            await asyncio.sleep(0.002 * (7 - number))
            await asyncio.sleep(0.002 * number)
            value = h.condition(program, {"b": torch.zeros(2)})()
            assert len(handlers_in_force()) == 2
        return float(value)

    async def every():
        with h.scale(scale=2.0):
            tasks = [asyncio.create_task(work(n)) for n in range(7)]
            return await asyncio.gather(*tasks)

    assert asyncio.run(every()) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert handlers_in_force() == ()


def test_a_handler_that_is_left_after_its_program_has_ended_leaves_nothing_in_force():
    """A generator that is collected late leaves its `with` block then."""
    left = []

    def blocks():
        with h.scale(scale=2.0), vg.plate("n", 2):
            yield

    def program():
        left.append(blocks())
        next(left[-1])
        return vg.sample("z", dist.Normal(torch.zeros(()), 1.0))

    with h.seed(seed=0):
        program()
    left.clear()
    assert handlers_in_force() == ()
    h.trace(lambda: vg.sample("z", dist.Normal(torch.zeros(()), 1.0)))


def test_a_loop_that_an_error_ends_leaves_nothing_in_force():
    """The loop of a sequential plate is a generator, and lives as long as the error's traceback."""

    def program():
        for _ in vg.plate("n", 3):
            raise ValueError("inside")

    kept = []
    with h.scale(scale=2.0):
        try:
            program()
        except ValueError as error:
            kept.append(error)
    kept.clear()
    assert handlers_in_force() == ()


def test_handlers_that_are_left_in_another_order_are_left_each():
    outer, inner = h.scale(scale=2.0), h.scale(scale=3.0)
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert len(handlers_in_force()) == 1
    inner.__exit__(None, None, None)
    assert handlers_in_force() == ()
