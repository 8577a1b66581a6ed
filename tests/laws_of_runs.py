"""Fast laws of runs: interrupts, errors, the cache, states; importing this adds them to those of `laws.py`."""

import contextlib
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pytest
import test_cache
import test_interrupts
import test_resume
import test_small_tensors
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
    expected, losses = test_interrupts.states(make)
    _, _, count = test_interrupts.run(make().init())
    for line in lines(count):
        svi = make().init()
        try:
            fit, said, _ = test_interrupts.run(svi, line, *(line + n for n in later))
        except KeyboardInterrupt as error:
            raise AssertionError("the run is lost") from error
        test_interrupts.check(svi, fit, said, make, expected, losses, generator)


@law
def ctrl_c_comes_between_two_steps():
    _interrupted(test_interrupts.mixed, lambda n: [*range(1, n, 1 + n // 20), *range(n - 12, n + 1)])


@law
def a_second_ctrl_c_comes_before_the_step_changes_anything():
    for make in (test_interrupts.mixed, test_interrupts.lbfgs):
        _interrupted(make, lambda n: range(1, n - 10, 1 + n // 40), 3, generator=False)


@law
def an_error_of_the_program_changes_nothing():
    for name in test_interrupts.MADE:
        test_interrupts.test_an_error_of_the_program_changes_nothing(name)
    test_interrupts.test_a_line_search_that_is_not_finite_moves_nothing()


@law
def what_is_not_whole_or_not_ours_is_not_loaded():
    for name, (attack, text) in test_cache.ATTACKS.items():
        with _cache() as (home, _, _):
            folder = test_cache.entry(cache.made(home))
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
            test_cache.test_what_belongs_to_another_user_is_not_loaded(whose, home, patch)


@law
def what_is_loaded_is_a_copy():
    with _cache() as (home, _, _):
        test_cache.test_what_is_whole_is_loaded_from_a_copy(home)


@law
def a_mistake_refuses_the_step():
    for place in ("recording", "taking over", "writing over", "compiling", "the first call"):
        with _cache() as (_, folder, patch):
            test_small_tensors.test_a_mistake_refuses_the_step(place, folder, patch)


@law
def a_tensor_without_dimensions_is_a_row_of_one():
    with _cache() as (_, folder, patch):
        test_small_tensors.test_small_tensors((), folder, patch)


@law
def the_quantity_that_differs_is_named():
    for target, entry, text in ((0, 1, "parameter 'scale' is"), (2, 0, "'exp_avg_sq' of the gradient of 'loc' is")):
        test_small_tensors.test_every_quantity_has_a_name(target, entry, text)
    test_small_tensors.test_the_quantity_that_differs_is_named()


@law
def a_run_that_is_cut_is_a_whole_one():
    with by_graph(), warnings.catch_warnings(action="ignore"):
        for name, args in (("mixed", ()), ("average", (torch.tensor([0.3, -1.0, 2.0]),))):
            for cut in (0, 1, 3, 6):
                test_resume.check(partial(test_resume.SVIS[name]), cut, 9, *args)
    test_resume.test_a_state_is_not_changed_by_later_steps()
    test_resume.test_a_state_that_does_not_fit_changes_nothing()
