"""The registry of estimators is whole and says the truth: one entry here is all that tests need of a new estimator."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from registry import ESTIMATORS, EVERY, SETS

import varigrad as vg
from varigrad import distributions as dist
from varigrad import estimators
from varigrad.errors import SiteError
from varigrad.estimators import Estimator
from varigrad.testing import PROGRAMS

DOCS = Path(__file__).parent.parent / "docs" / "estimators.md"


def defined():
    """Every estimator of the package, by name: the leaves, in the modules that define them."""
    found = {}
    for info in pkgutil.iter_modules(estimators.__path__):
        module = importlib.import_module(f"varigrad.estimators.{info.name}")
        for name, kind in vars(module).items():
            if isinstance(kind, type) and issubclass(kind, Estimator) and kind.__module__ == module.__name__:
                found[name] = kind
    return {n: k for n, k in found.items() if not any(k in other.__mro__[1:] for other in found.values())}


def test_every_estimator_is_exported_registered_and_described():
    sections = set(re.findall(r"\w+", " ".join(re.findall(r"^##+ (.*)$", DOCS.read_text(), re.M))))
    registered = {type(entry.make()) for entry in ESTIMATORS.values()}
    assert len(defined()) > 25
    for name, kind in defined().items():
        assert getattr(estimators, name, None) is kind, f"varigrad.estimators does not export {name}"
        assert kind in registered, f"tests/registry.py has no entry for {name}"
        assert name in sections, f"docs/estimators.md has no section for {name}"


def test_every_program_is_in_one_set():
    """A new program has to say what it is like, and thereby who serves it."""
    assert sum(map(len, SETS)) == len(EVERY)
    assert set(PROGRAMS) == EVERY


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_entry_says_what_the_estimator_does(name):
    entry = ESTIMATORS[name]
    estimator, coin = entry.make(), dist.Bernoulli(torch.tensor(0.3))
    assert entry.lanes == 1 + (estimator.alternatives(coin) if estimator.refusal(coin) is None else 0)
    assert entry.serves <= EVERY and entry.slow <= EVERY and entry.sampled <= EVERY
    assert not entry.slow & entry.sampled
    case = PROGRAMS[min(entry.serves)]
    plan = entry.elbo()(case.model, case.guide).init(*case.args).plan(*case.args)
    assert {site.unbiased for site in plan.sites if site.name.startswith("z")} == {entry.unbiased}
    alone = vg.ELBO(1, {"z*": estimator})
    if entry.particles == 1:
        alone(case.model, case.guide)(*case.args)
    else:
        with pytest.raises(SiteError, match="one particle"):
            alone(case.model, case.guide)(*case.args)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_serve_the_programs_of_their_entry_and_refuse_the_others(name):
    entry, served = ESTIMATORS[name], set()
    for program, case in PROGRAMS.items():
        try:
            entry.elbo()(case.model, case.guide)(*case.args)
            served.add(program)
        except SiteError as error:
            assert "Try: " in str(error)
    assert served == entry.serves


def test_networks_of_entries_are_their_own():
    for name in ("relax", "lax", "rodeo_with_a_network"):
        one, other = (next(iter(ESTIMATORS[name].make().parameters_of_baselines().values())) for _ in range(2))
        assert one is not other
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            assert p is not q and torch.equal(p, q)


def test_an_elbo_of_an_entry_takes_options():
    assert ESTIMATORS["sobol"].elbo(vectorize=False) == vg.ELBO(2, {"z*": ESTIMATORS["sobol"].make()}, vectorize=False)
