"""Fast laws of runs: interrupts, errors, the cache, states; importing this adds them to those of `laws`."""

import contextlib
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path

import cache_attacks
import failing_steps
import interrupting
import pytest
import resuming
import small_tensors
import torch
from graph_harness import by_graph
from laws import LAWS as LAWS
from laws import law

from varigrad.compile.backends import cache
from varigrad.compile.backends.compilation import DAMAGED


@contextlib.contextmanager
def _cache():
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("VARIGRAD_CACHE", str(Path(os.path.realpath(folder)) / "own" / "cache"))
        yield Path(os.path.realpath(folder)) / "own" / "cache", Path(folder), patch


def _interrupted(make, lines, *later, generator=True):
    expected, losses = interrupting.states(make)
    _, _, count = interrupting.run(make().init())
    for line in lines(count):
        svi = make().init()
        try:
            fit, said, _ = interrupting.run(svi, line, *(line + n for n in later))
        except KeyboardInterrupt as error:
            raise AssertionError("the run is lost") from error
        interrupting.check(svi, fit, said, make, expected, losses, generator)


@law
def ctrl_c_comes_between_two_steps():
    _interrupted(interrupting.mixed, lambda n: [*range(1, n, 1 + n // 20), *range(n - 12, n + 1)])


@law
def a_second_ctrl_c_comes_before_the_step_changes_anything():
    for make in (interrupting.mixed, interrupting.lbfgs):
        _interrupted(make, lambda n: range(1, n - 10, 1 + n // 40), 3, generator=False)


@law
def an_error_of_the_program_changes_nothing():
    for name in interrupting.MADE:
        interrupting.an_error_of_the_program_changes_nothing(name)
    interrupting.a_line_search_that_is_not_finite_moves_nothing()


@law
def what_is_not_whole_or_not_ours_is_not_loaded():
    for name, (attack, text) in cache_attacks.ATTACKS.items():
        with _cache() as (home, _, _):
            folder = cache_attacks.entry(cache.made(home))
            if "outside" in name:
                (folder.parent / "step.so").write_bytes(b"0")
            attack(folder)
            try:
                cache.loaded(folder, lambda *_: None)
            except DAMAGED as error:
                assert "link" in name or text in str(error), (name, error)
            else:
                raise AssertionError(name)
    for whose in ("step.so", "done.json", "key", "cache", "own"):
        with _cache() as (home, _, patch):
            cache_attacks.refuses_what_is_anothers(whose, home, patch)


@law
def what_is_loaded_is_a_copy():
    with _cache() as (home, _, _):
        cache_attacks.loads_a_copy(home)


@law
def a_mistake_refuses_the_step():
    for place in ("recording", "taking over", "writing over", "compiling", "the first call"):
        with _cache() as (_, folder, patch):
            failing_steps.a_mistake_refuses_the_step(place, folder, patch)


@law
def a_tensor_without_dimensions_is_a_row_of_one():
    with _cache() as (_, folder, patch):
        small_tensors.c_agrees_with_torch((), folder, patch)


@law
def the_quantity_that_differs_is_named():
    for target, entry, text in ((0, 1, "parameter 'scale' is"), (2, 0, "'exp_avg_sq' of the gradient of 'loc' is")):
        failing_steps.every_quantity_has_a_name(target, entry, text)
    failing_steps.the_quantity_that_differs_is_named()


@law
def a_run_that_is_cut_is_a_whole_one():
    with by_graph(), warnings.catch_warnings(action="ignore"):
        for name, args in (("mixed", ()), ("average", (torch.tensor([0.3, -1.0, 2.0]),))):
            for cut in (0, 1, 3, 6):
                resuming.check(partial(resuming.SVIS[name]), cut, 9, *args)
    resuming.a_state_is_not_changed_by_later_steps()
    resuming.a_state_that_does_not_fit_changes_nothing()
