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
NAMES = re.compile(r"^ {4}(\w+(?:, \w+)*): ", re.MULTILINE)
"""The arguments that a line of a section describes; several may share a line."""
TORCHS = frozenset({"self", "validate_args"})
"""Arguments that every class, or every distribution of torch, takes."""


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


def _section(doc: str, *titles: str) -> str:
    """What stands under the titles, each entry indented by four spaces."""
    found = re.findall(rf"^(?:{'|'.join(titles)}):\n((?:(?: {{4}}.*)?\n)+)", inspect.cleandoc(doc) + "\n", re.MULTILINE)
    return "".join(found)


@pytest.mark.parametrize(
    "value",
    [v for v in PUBLIC_CALLABLES if not isinstance(v, type) or "__init__" in vars(v)],
    ids=lambda value: value.__qualname__,
)
def test_every_argument_is_described(value):
    described = ", ".join(NAMES.findall(_section(_doc(value), "Args", "Attributes"))).split(", ")
    assert {*inspect.signature(value).parameters} - {*described} <= TORCHS


@pytest.mark.parametrize(
    "value", [v for v in PUBLIC_CALLABLES if inspect.isfunction(v)], ids=lambda value: value.__qualname__
)
def test_every_result_is_described(value):
    returns_nothing = value.__annotations__["return"] == "None"
    assert bool(_section(_doc(value), "Returns")) != returns_nothing


def test_arguments_and_results_are_found_in_docstrings():
    doc = """Add.

    Args:
        a, b: the
            numbers: all of them.
        c: more.

    Returns:
        The sum.
    """
    assert NAMES.findall(_section(doc, "Args")) == ["a, b", "c"]
    assert _section(doc, "Returns") == "    The sum.\n"
    assert _section(doc, "Attributes") == ""
