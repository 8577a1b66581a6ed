"""Test modules stand alone: what two of them need lies in a helper module, so that neither runs the other's set-up."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent
LONGEST = 400


def imported(tree):
    """The names of modules that a file imports, at its head or anywhere else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)


def test_nothing_is_imported_from_a_test_module():
    files = sorted(TESTS.rglob("*.py"))
    test_modules = {file.stem for file in files if file.stem.startswith("test_")}
    assert len(test_modules) > 60
    found = [
        (str(file.relative_to(TESTS)), name)
        for file in files
        for name in imported(ast.parse(file.read_text()))
        if test_modules & {*name.split(".")}
    ]
    assert not found


def test_helper_modules_are_short():
    helpers = [f for f in TESTS.rglob("*.py") if not f.name.startswith("test_")]
    assert len(helpers) > 40
    long = {str(f.relative_to(TESTS)): n for f in helpers if (n := len(f.read_text().splitlines())) > LONGEST}
    assert not long
