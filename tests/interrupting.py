"""Ctrl-C and errors at every line of a step, and what a run that met one has to have left behind."""

import contextlib
import functools
import signal
import sys
import warnings
from pathlib import Path

import pytest
import torch
from graph_harness import same
from programs_for_svi import MixedGuide, mixed_model, normal_guide, normal_model
from torch.optim.lr_scheduler import StepLR

import varigrad as vg
from varigrad import distributions as dist
from varigrad import interrupts
from varigrad.compile.step import step_compiler
from varigrad.errors import NonFiniteError
from varigrad.estimators import MovingAverage, Score

STEPS = 4


PACKAGE = Path(interrupts.__file__).parent
LOOP = tuple(str(PACKAGE / name) for name in ("inference", "compile/step", "optim", "interrupts.py"))
"""Where a step is taken. Elsewhere, a trace function can raise between a block and what leaves it, as no signal can."""
PROGRAMS = str(Path(__file__).parent / "programs_for_svi.py")


@contextlib.contextmanager
def signals(*lines):
    """Ctrl-C at these lines, counted from 1 over those at which it is held back (a dozen at either end are not).

    Yields a list whose length is how many have been run.
    """
    seen, wanted = [], set(lines)

    def at(frame, event, argument):
        if event == "line" and signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            seen.append(None)
            if len(seen) in wanted:
                signal.raise_signal(signal.SIGINT)
        return at

    def entered(frame, event, argument):
        return at if frame.f_code.co_filename.startswith((*LOOP, PROGRAMS)) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        yield seen
    finally:
        sys.settrace(before)


def adam():
    return vg.optim.Adam(lr=0.02, schedule=functools.partial(StepLR, step_size=2))


def mixed(compile=False):
    return vg.SVI(mixed_model, MixedGuide(), adam(), seed=3, compile=compile)


def lbfgs(compile=False):
    kind = functools.partial(torch.optim.LBFGS, lr=0.1, max_iter=3)
    return vg.SVI(normal_model, normal_guide, kind, seed=3, compile=compile)


def score(compile=False):
    config = vg.ELBO(estimators={"z": Score(MovingAverage(0.9))})
    return vg.SVI(normal_model, normal_guide, adam(), config, seed=3, compile=compile)


MADE = {"mixed": mixed, "lbfgs": lbfgs}


def tree(svi, generator=True):
    found = {**svi.state(), "metrics": svi.metrics.step if svi.metrics else 0, "steps": svi.bound.steps}
    return found if generator else {k: v for k, v in found.items() if k != "generator"}


@functools.cache
def states(make):
    """What every number of steps has made, and the losses."""
    svi = make()
    svi.init()
    found, losses = [tree(svi)], []
    for _ in range(STEPS):
        losses.append(svi.step())
        found.append(tree(svi))
    return found, losses


def run(svi, *lines):
    """A run with Ctrl-C at these lines; the `Fit`, what was said, and how many lines there were."""
    handler = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with signals(*lines) as seen:
            fit = svi.run(STEPS)
    assert signal.getsignal(signal.SIGINT) is handler
    return fit, [str(w.message) for w in said if not issubclass(w.category, step_compiler.CaptureWarning)], len(seen)


def check(svi, fit, said, make, expected, losses, generator=True):
    taken = len(fit.losses)
    assert same(tree(svi, generator), {k: v for k, v in expected[taken].items() if generator or k != "generator"})
    assert fit.losses.tolist() == losses[:taken]
    assert said == [f"interrupted after {taken} of {STEPS} steps"]


class Wrong(Exception):
    pass


@contextlib.contextmanager
def error_at(line):
    """An error of the program's at this line of it."""
    seen = []

    def at(frame, event, argument):
        if event == "line":
            seen.append(None)
            if len(seen) == line:
                raise Wrong
        return at

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: at if frame.f_code.co_filename == PROGRAMS else None)
    try:
        yield seen
    finally:
        sys.settrace(before)


def an_error_of_the_program_changes_nothing(name):
    make = MADE[name]
    expected, _ = states(make)
    svi = make().init()
    svi.step()
    with error_at(0) as seen:
        svi.step()
    for line in range(1, len(seen) + 1):
        svi = make().init()
        svi.step()
        with pytest.raises(Wrong), error_at(line):
            svi.run(2)
        assert same(tree(svi, False), {k: v for k, v in expected[1].items() if k != "generator"})


def a_line_search_that_is_not_finite_moves_nothing():
    def model(limit):
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.factor("poison", torch.where(z > limit, torch.inf, 0.0 * z))

    svi = vg.SVI(model, lambda limit: normal_guide(), functools.partial(torch.optim.LBFGS, lr=0.1), seed=0)
    svi.step(torch.tensor(100.0))
    before = tree(svi, False)
    with pytest.raises(NonFiniteError):
        svi.step(torch.tensor(-100.0))
    after = tree(svi, False)
    assert before.pop("metrics") + 1 == after.pop("metrics")
    assert same(before, after)
