"""Annotations say something: `Any` stands in few signatures, and mypy is strict with every module."""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST = 250
"""How many arguments and results may be annotated with `Any`. What is left is open by nature: values of any type that
are walked through, torch's arguments handed on, options by name, and what Pyro's own interface leaves open."""


def open_annotations(path):
    """The lines of arguments and results whose annotation names `Any`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            of = node.args
            arguments = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, (of.vararg, of.kwarg))]
            for annotation in filter(None, (*(a.annotation for a in arguments), node.returns)):
                if any(isinstance(part, ast.Name) and part.id == "Any" for part in ast.walk(annotation)):
                    yield annotation.lineno


def test_few_signatures_are_open():
    found = {path: list(open_annotations(path)) for path in (ROOT / "src").rglob("*.py")}
    count = sum(map(len, found.values()))
    worst = sorted(found, key=lambda path: -len(found[path]))[:5]
    names = ", ".join(f"{path.relative_to(ROOT)} ({len(found[path])})" for path in worst)
    assert 0 < count <= MOST, f"{count} annotations with Any, most of them in {names}"


def test_mypy_is_strict_with_every_module():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"] is True
    assert all(set(entry) == {"module", "disallow_untyped_calls"} for entry in settings["overrides"])


def test_open_annotations_are_found(tmp_path):
    path = tmp_path / "some.py"
    path.write_text("def f(a: Any, b: list[Any], *c: int, **d: 'int') -> Any: ...\n")
    assert list(open_annotations(path)) == [1, 1, 1]
