"""Whatever Pyro 1.9.2 has can be imported; what varigrad lacks says what to use instead when it is used."""

import importlib
import subprocess
import sys

import pytest

import varigrad.compat.pyro as pyro
from varigrad.compat.pyro import absent

NAMES = absent.names_of_pyro()
ABSENT = [
    f"{module}.{name}"
    for module, names in NAMES.items()
    for name in names
    if isinstance(getattr(importlib.import_module(absent.OURS + module.removeprefix("pyro")), name), absent._Refusing)
]


def find(what):
    module, _, name = what.rpartition(".")
    return getattr(importlib.import_module(absent.OURS + module.removeprefix("pyro")), name)


def test_every_module_has_every_name():
    assert len(NAMES) > 200 and sum(map(len, NAMES.values())) > 1_000
    for module, names in NAMES.items():
        there = importlib.import_module(absent.OURS + module.removeprefix("pyro"))
        assert not [name for name in names if not hasattr(there, name)], module


def test_what_is_there_is_no_stand_in():
    """The names that programs for SVI and enumeration use."""
    for module in ("pyro.infer.discrete", "pyro.infer.enum", "pyro.ops.indexing", "pyro.poutine", "pyro"):
        lacking = [what for what in ABSENT if what.rpartition(".")[0] == module]
        assert lacking in ([], ["pyro.infer.discrete.SamplePosteriorMessenger"]), lacking
    assert len(ABSENT) < 480


@pytest.mark.parametrize("what", ABSENT)
def test_a_stand_in_raises_when_it_is_used(what):
    it = find(what)
    kept = [it, {it: 1}, it is not None, isinstance(3, it), it.__name__]  # passing it around is no use
    assert kept and repr(it)
    for use in (
        lambda: it(),
        lambda: type("Own", (it,), {}),
        lambda: it.__enter__(),
        lambda: it.part,
        lambda: list(it),
        lambda: it[0],
    ):
        with pytest.raises(NotImplementedError, match=r"^pyro\..* is not there\. Try: \w"):
            use()


def test_a_stand_in_in_a_with_block():
    message = r"pyro\.distributions\.Stable is not there\. Try: a family of"
    with pytest.raises(NotImplementedError, match=message), pyro.distributions.Stable:
        pass
    with pytest.raises(AttributeError, match="__length_hint__"):
        _ = pyro.distributions.Stable.__length_hint__


def test_a_module_gives_what_the_package_around_it_has():
    assert pyro.infer.csis.CSIS is pyro.infer.CSIS
    kind = importlib.import_module("varigrad.compat.pyro.distributions.asymmetriclaplace").AsymmetricLaplace
    assert kind is pyro.distributions.AsymmetricLaplace and not isinstance(kind, absent._Refusing)
    with pytest.raises(AttributeError, match=r"varigrad\.compat\.pyro\.infer\.csis.*'NoSuchName'"):
        _ = pyro.infer.csis.NoSuchName


def test_under_the_name_pyro(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import pyro, pyro.generic, pyro.ops.einsum.adjoint, pyro.distributions.transforms.planar\n"
        "from pyro.infer.mcmc import NUTS\n"
        "from pyro.ops.welford import WelfordCovariance\n"
        "from pyro.distributions.transforms.planar import Planar\n"
        "from pyro.infer.discrete import infer_discrete\n"
        "print(pyro.__backend__, WelfordCovariance.__name__)\n"
        "try:\n    import pyro.no_such_module\nexcept ImportError:\n    print('absent from Pyro')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "varigrad.compat.pyro", str(script)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["varigrad WelfordCovariance", "absent from Pyro"]
