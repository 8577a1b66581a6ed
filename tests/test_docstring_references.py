"""References in docstrings of `src`: the files and the names of varigrad that they mention exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILES = [
    path.relative_to(ROOT).as_posix() for part in ("src", "tests", "examples") for path in (ROOT / part).rglob("*")
]

FILE = re.compile(r"[\w./-]*\w\.py\b")
"""A path, or the end of one."""
NAME = re.compile(r"`(?:varigrad|vg|pyro)(?:\.\w+)+")
"""A dotted name between backticks, with or without arguments after it."""
PACKAGES = {"vg": "varigrad", "pyro": "varigrad.compat.pyro"}
EXAMPLES = frozenset({"script.py"})
"""Names of users' files."""


def docstrings(path):
    """The strings that are statements: docstrings of modules, classes, functions and constants."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def exists(file):
    return any(known == file or known.endswith(f"/{file}") for known in FILES)


def resolves(name):
    """Whether a dotted name is a module, or can be read from one."""
    package, _, rest = name.partition(".")
    found = importlib.import_module(PACKAGES.get(package, package))
    for part in rest.split("."):
        if not hasattr(found, part):
            try:
                importlib.import_module(f"{found.__name__}.{part}")
            except (ImportError, AttributeError):
                return False
        found = getattr(found, part)
    return True


def test_files_in_docstrings_exist():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {file}"
        for path in SOURCES
        for line, text in docstrings(path)
        for file in FILE.findall(text)
        if file not in EXAMPLES and not exists(file)
    ]
    assert not found, "\n".join(found)


def test_names_in_docstrings_exist():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name[1:]}"
        for path in SOURCES
        for line, text in docstrings(path)
        for name in NAME.findall(text)
        if not resolves(name[1:])
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("file", ["objectives/rechecks.py", "no_such_file.py", "echecks.py"])
def test_missing_file_is_found_missing(file):
    assert not exists(file)


@pytest.mark.parametrize("name", ["varigrad.objectives.parameters.Owner", "vg.no_such_name", "pyro.infer.no_such_name"])
def test_missing_name_is_found_missing(name):
    assert not resolves(name)
