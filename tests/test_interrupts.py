"""Ctrl-C, and errors, at every line of a step: what is left behind is always what some whole number of steps has made.

The signal is raised by a trace function at the k-th line of the loop, the step and the optimiser, for all k. (Python
runs its handler between two lines in any case.)
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from graph_harness import by_graph, same, svi_of
from interrupting import (
    MADE,
    STEPS,
    Wrong,
    a_line_search_that_is_not_finite_moves_nothing,
    an_error_of_the_program_changes_nothing,
    check,
    mixed,
    run,
    score,
    signals,
    states,
    tree,
)
from programs_for_svi import DATA, normal_guide, normal_model

import varigrad as vg
from varigrad import distributions as dist
from varigrad.errors import VarigradError
from varigrad.interrupts import Interrupts

MANY = [pytest.param(80, id="some lines"), pytest.param(500, id="many lines", marks=pytest.mark.slow)]


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("name", MADE)
def test_a_run_ends_between_two_steps(name, many):
    """Wherever Ctrl-C comes, in one run or the other: at most the step that is going on is taken."""
    make = MADE[name]
    expected, losses = states(make)
    whole, said, count = run(make().init())
    assert whole.losses.tolist() == losses and not said and count > 100
    taken = []
    for line in range(1, count + 1, 1 + count // many):
        svi = make().init()
        fit, said, _ = run(svi, line)
        check(svi, fit, said, make, expected, losses)
        taken.append(len(fit.losses))
    assert set(taken) == set(range(STEPS + 1))


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("name", MADE)
def test_a_second_one_leaves_the_step(name, many):
    """It may be dropped or taken, but not in part."""
    make = MADE[name]
    expected, losses = states(make)
    _, _, count = run(make().init())
    for line in range(1, count - 40, 1 + 3 * count // many):
        for later in (1, 7, 40):
            svi = make().init()
            fit, said, _ = run(svi, line, line + later)
            check(svi, fit, said, make, expected, losses, generator=False)


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("name", MADE)
def test_a_loop_of_ones_own(name, many):
    """`KeyboardInterrupt` comes out of the step that it has met, when that is whole."""
    make = MADE[name]
    expected, _ = states(make)
    svi = make().init()
    with signals() as seen:
        svi.step()
    for line in range(1, len(seen) + 1, 1 + len(seen) // many):
        svi = make().init()
        svi.step()
        with contextlib.suppress(KeyboardInterrupt), signals(line):
            svi.step()
        assert svi.bound.steps in (1, 2)
        assert same(tree(svi), expected[svi.bound.steps])


@pytest.mark.parametrize("many", MANY)
def test_a_compiled_run_ends_between_two_steps(many):
    """From the recording on to steps in a row."""
    with by_graph():
        make = functools.partial(score, True)
        expected, losses = [], []
        svi = make().init()
        expected.append(tree(svi))
        for _ in range(STEPS):
            losses.append(svi.step())
            expected.append(tree(svi))
        _, said, count = run(make().init())
        assert not said
        for line in range(1, count + 1, 1 + count // many):
            svi = make().init()
            fit, said, _ = run(svi, line)
            check(svi, fit, said, make, expected, losses)
            rest = STEPS - len(fit.losses)
            if rest:
                assert svi.run(rest).losses.tolist() == losses[-rest:]
            assert same(tree(svi), expected[-1])


def test_waiting_is_left_at_once():
    """For a loader, in a callback, for the compiler: nothing is going on there."""

    class Loader:
        dataset = batch_sampler = ()

        def __iter__(self):
            yield (DATA,)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("goes on")

    with pytest.warns(UserWarning, match="interrupted after 1 of 9 steps"):
        assert len(svi_of(normal_model, normal_guide).run(9, Loader()).losses) == 1

    def callback(metrics):
        if metrics.step == 3:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("goes on")

    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0)
    with pytest.warns(UserWarning, match="interrupted after 3 of 9 steps"):
        svi.run(9, DATA, callback=callback)
    assert svi.bound.steps == 3


def test_a_handler_of_ones_own_is_called_between_two_steps():
    called = []

    def model():
        normal_model()
        if sending:
            signal.raise_signal(signal.SIGINT)

    sending = []
    svi = vg.SVI(model, normal_guide, vg.optim.Adam(), seed=0).init()
    handler = lambda *_: called.append(svi.bound.steps)  # noqa: E731
    before = signal.signal(signal.SIGINT, handler)
    sending.append(True)
    try:
        assert len(svi.run(5).losses) == 5 and called == [1, 2, 3, 4, 5]
        svi.step()
        assert called == [1, 2, 3, 4, 5, 6] and signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert len(svi.run(2).losses) == 2
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_hold_nothing_back():
    handler = signal.getsignal(signal.SIGINT)
    seen = []
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0)
    run_it = lambda: svi.run(3, DATA, callback=lambda m: seen.append(signal.getsignal(signal.SIGINT)))  # noqa: E731
    thread = threading.Thread(target=run_it)
    thread.start()
    thread.join()
    assert seen == [handler] * 3
    svi.run(1, DATA, callback=lambda m: seen.append(signal.getsignal(signal.SIGINT)))
    assert seen[-1] is not handler


def test_one_inside_another():
    """A fit in a callback ends, and what was asked of it is not lost on the outer one's handler."""
    inner = vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0)
    asked = []

    def callback(metrics):
        asked.append(len(inner.run(3, DATA, callback=lambda m: signal.raise_signal(signal.SIGINT)).losses))

    outer = vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=0)
    with pytest.warns(UserWarning, match="interrupted after 1 of 3 steps"):
        fit = outer.run(2, DATA, callback=callback)
    assert asked == [1, 1] and len(fit.losses) == 2


def test_signals_are_delivered_in_the_end():
    held, order = Interrupts(), []

    def inside():
        signal.raise_signal(signal.SIGINT)
        order.append("held")
        with pytest.raises(KeyboardInterrupt):
            held.at_once(order.append, "never")
        held.on_second(signal.raise_signal, signal.SIGINT)
        order.append("noted")
        with pytest.raises(KeyboardInterrupt):
            held.on_second(signal.raise_signal, signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        order.append("last")

    with pytest.raises(KeyboardInterrupt):
        held.whole(inside)
    assert order == ["held", "noted", "last"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):  # and is as good as new
        held.whole(signal.raise_signal, signal.SIGINT)


# Errors


@pytest.mark.parametrize("name", MADE)
def test_an_error_of_the_program_changes_nothing(name):
    an_error_of_the_program_changes_nothing(name)


def test_an_error_of_a_callback_or_schedule_comes_after_the_step():
    def wrong(metrics):
        if metrics.step == 2:
            raise Wrong

    expected, _ = states(mixed)
    svi = mixed().init()
    with pytest.raises(Wrong):
        svi.run(4, callback=wrong)
    assert same(tree(svi), expected[2])

    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=3)
    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(schedule=schedule), seed=0)
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        svi.run(9, DATA)
    age = float(next(iter(svi.optimizer.state.values()))["step"])
    assert svi.metrics.step == svi.bound.steps == age == 3 + (age == 4)


def test_a_schedule_that_cannot_be_made_leaves_no_optimiser_behind():
    """Else the second attempt would go on without a schedule."""

    def schedule(optimizer):
        raise Wrong

    svi = vg.SVI(normal_model, normal_guide, vg.optim.Adam(schedule=schedule), seed=0)
    for _ in range(2):
        with pytest.raises(Wrong):
            svi.step(DATA)


def test_a_line_search_that_is_not_finite_moves_nothing():
    a_line_search_that_is_not_finite_moves_nothing()


def test_an_error_in_a_block_of_steps():
    """The steps before it are on record, and Python raises it again, as an eager run does."""
    table = torch.arange(4.0)

    def model(index):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z + table.index_select(0, index.reshape(1))[0], 1.0), obs=torch.tensor(1.0))

    def guide(index):
        vg.sample("z", dist.Normal(vg.param("m", 0.0), 1.0))

    index = torch.tensor(1)
    with by_graph():
        svi = svi_of(model, guide)
        svi.run(8, index)
        before = tree(svi, False)
        index.fill_(9)
        with pytest.raises(IndexError):
            svi.run(20, index)
        assert same(tree(svi, False), before)
        index.fill_(2)
        svi.run(20, index)
        assert "eager: " not in svi.explain() and svi.bound.steps == 28


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"seed": "a"}, "seed must be a whole number (of at most 64 bits) or None, got 'a'. Try: seed=0"),
        ({"seed": 1.5}, "seed must be a whole number (of at most 64 bits) or None, got 1.5"),
        ({"seed": True}, "seed must be a whole number (of at most 64 bits) or None, got True"),
        ({"seed": 2**64}, "seed must be a whole number (of at most 64 bits) or None, got 18446744073709551616"),
        ({"seed": torch.tensor(1)}, "seed must be a whole number (of at most 64 bits) or None, got tensor(1)"),
        ({"compile": "yes"}, "compile must be False, True or \"wait\", got 'yes'"),
        ({"compile": 1}, 'compile must be False, True or "wait", got 1'),
        ({"skip_nonfinite": "no"}, "skip_nonfinite must be True or False, got 'no'"),
        ({"optim": "adam"}, "optim must be a configuration, or a function from parameters to an optimiser, got 'adam'"),
        ({"optim": None}, "optim must be a configuration, or a function from parameters to an optimiser, got None"),
        ({"objective": 3}, "objective must be an ELBO(...) or a bound, got 3"),
    ],
)
def test_wrong_kinds_of_arguments(options, text):
    arguments = {"optim": vg.optim.Adam(), "objective": vg.ELBO(), **options}
    with pytest.raises(VarigradError) as error:
        vg.SVI(normal_model, normal_guide, **arguments)
    assert text in str(error.value)


@pytest.mark.parametrize("seed", [0, -1, 2**63, -(2**63), 2**64 - 1])
@pytest.mark.parametrize("compile", [False, True])
def test_seeds(seed, compile):
    losses = [
        vg.SVI(normal_model, normal_guide, vg.optim.Adam(), seed=seed, compile=compile).step(DATA) for _ in range(2)
    ]
    assert losses[0] == losses[1]
    with pytest.raises(VarigradError, match="seed must be a whole number"):
        vg.compiled(vg.ELBO()(normal_model, normal_guide), seed="a")


def test_wrong_arguments_of_a_run():
    svi = svi_of(normal_model, normal_guide)
    for options, text in (
        ({"callback": 3}, "callback must be a function of the metrics, got 3"),
        ({"compile": "now"}, "compile must be False, True or \"wait\", got 'now'"),
    ):
        with pytest.raises(VarigradError) as error:
            svi.run(3, DATA, **options)
        assert text in str(error.value)


# The real thing


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", ["eager", "compiled"])
def test_five_hundred_interrupts(kind, tmp_path):
    """By a timer's signal, at random moments (`interrupting_at_random.py`)."""
    environment = {**os.environ, "VARIGRAD_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "interrupting_at_random", kind, "500"]
    here = os.path.dirname(__file__)
    done = subprocess.run(command, capture_output=True, text=True, cwd=here, env=environment, check=False)
    assert done.stdout.startswith("whole: 500 interrupts"), (done.stdout[-500:], done.stderr[-2000:])
