"""The runner of mutants says what became of each in a word of its own, and fails unless every one was caught."""

import importlib
import io
import sys

import pytest
from mutants import M

runner = importlib.import_module("mutants.__main__")

FILE, OLD = "errors.py", "VarigradError"
CALM = "def test_it():\n    assert True\n"
OF_EACH = {
    "killed": ("def test_it():\n    assert False\n", ""),
    "SURVIVED": (CALM, ""),
    "CRASHED": ("import os\n\n\ndef test_it():\n    os._exit(3)\n", "ended with 3"),
    "CRASHED by collection": ("import os\n\nraise ValueError\n", "ended with 1"),
    "CRASHED by a test that is not there": ("def test_other():\n    pass\n", "ended with 1"),
    "TIMEOUT": ("import time\n\n\ndef test_it():\n    time.sleep(600)\n", "no verdict after 3 s"),
    "NONSENSE": ("def test_it():\n    undefined\n", "NameError"),
    "LOST": (CALM, "0 times"),
}


def package(folder):
    """A package of one file, with no dependencies, for the runner to copy and to break."""
    (folder / "varigrad").mkdir()
    (folder / "varigrad" / "__init__.py").write_text("")
    (folder / "varigrad" / FILE).write_text(f"class {OLD}(ValueError):\n    pass\n")
    return folder


@pytest.mark.parametrize("case", OF_EACH)
def test_each_outcome_has_its_word(case, tmp_path, monkeypatch):
    text, why = OF_EACH[case]
    word = case.split()[0]
    test = tmp_path / "test_of_a_mutant.py"
    test.write_text(text)
    # pytest resolves an absolute path under `tests/` to itself.
    mutant = M("a mutant", FILE, OLD if word != "LOST" else "never there", "Another", f"{test}::test_it")
    monkeypatch.setattr(runner, "SOURCE", package(tmp_path))
    monkeypatch.setattr(runner, "SECONDS", 3 if word == "TIMEOUT" else 300)
    monkeypatch.setattr(runner, "trials", lambda wanted: [(mutant, (mutant.law,), True)])
    monkeypatch.setattr(runner, "_child", child)
    out = io.StringIO()
    failed = runner.main([], out)
    line, summary = out.getvalue().splitlines()
    assert line.split()[2] == word and why in line
    assert failed == (word != "killed")
    assert ("all killed" if word == "killed" else f"NOT GOOD: ['a mutant ({word})']") in summary


def child(folder, laws, by_pytest, others):
    """What the runner's child does, in a process that has imported another package of that name."""
    for name in [n for n in sys.modules if n.split(".")[0] == "varigrad"]:
        del sys.modules[name]
    REAL(folder, laws, by_pytest, others)


REAL = runner._child
