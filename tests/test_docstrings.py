"""Every public name shows how it is used, and every estimator and bound says where it comes from."""

import importlib
import inspect
import re

import pytest
from torch import distributions as td

import varigrad as vg
from varigrad.estimators import Estimator

PUBLIC = {
    name: importlib.import_module(name)
    for name in (
        "varigrad",
        "varigrad.diagnostics",
        "varigrad.distributions",
        "varigrad.estimators",
        "varigrad.guides",
        "varigrad.objectives",
        "varigrad.optim",
        "varigrad.testing",
    )
}


def _is_torchs(name: str, value: object) -> bool:
    """Whether it is a family of torch's, which torch documents."""
    return isinstance(value, type) and issubclass(value, td.Distribution) and hasattr(td, name)


PUBLIC_CALLABLES = {
    value: f"{module}.{name}"
    for module, package in PUBLIC.items()
    for name, value in ((name, getattr(package, name)) for name in dir(package) if not name.startswith("_"))
    if callable(value) and getattr(value, "__module__", "").startswith("varigrad") and not _is_torchs(name, value)
}
ESTIMATORS = {
    name: kind
    for name, kind in vars(vg.estimators).items()
    if isinstance(kind, type) and issubclass(kind, Estimator) and not inspect.isabstract(kind)
}
OPTIONS = frozenset({"cls", "self"})
SHARED = re.compile(r"see `|as in `|are those of `|`\w+` in `")


def _doc(value: object) -> str:
    """Its own docstring, not one that it inherits."""
    return vars(value).get("__doc__") or "" if isinstance(value, type) else value.__doc__ or ""


def test_all_packages_have_public_names():
    assert len(PUBLIC_CALLABLES) > 120
    assert len(ESTIMATORS) > 25
    assert vg.SVI in PUBLIC_CALLABLES and vg.compare in PUBLIC_CALLABLES and vg.sample in PUBLIC_CALLABLES


@pytest.mark.parametrize("value", PUBLIC_CALLABLES, ids=PUBLIC_CALLABLES.values())
def test_every_public_name_has_an_example(value):
    assert re.search(r"^ *Example:\n +>>> ", _doc(value), re.MULTILINE), "a docstring needs an Example that runs"


@pytest.mark.parametrize("kind", [*ESTIMATORS.values(), vg.ELBO, vg.Renyi], ids=lambda kind: kind.__name__)
def test_every_estimator_and_bound_has_a_reference(kind):
    assert re.search(r"References:\n[^>]*(arXiv:\d{4}\.\d{4,5}|doi:10\.\d{4,9}/\S+)", _doc(kind)), (
        "a docstring needs References with an arXiv id or a DOI"
    )
