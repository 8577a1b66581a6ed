"""Words that have been retired from names, docstrings, comments and documents, and docstrings that say too little."""

import ast
import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")])

RETIRED = re.compile(r"\b(nought|somebody|nobody|whoever|whence|of its operation)\b", re.IGNORECASE)
"""Riddles, where the actor or the standard term is to be named."""

OLD_NAMES = frozenset(
    {
        "Sight",
        "SEVERED",
        "severed",
        "get_lost",
        "needs_cost",
        "relaxes",
        "differentiates",
        "refusal_of_concrete",
        "Descent",
        "Homes",
        "Recorded",
        "Replayed",
        "Watch",
        "minds",
        "Place",
    }
)
"""Names that have been replaced: one thing has one word. (The former flags are strings where they are refused.)"""


def names_in(path):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


def short_docstrings(path):
    """Docstrings under four words, with their places."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is not None and len(text.split()) < 4:
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {text!r}"


def found_in(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for match in RETIRED.finditer(line):
            yield f"{path.relative_to(ROOT)}:{number}: {match.group()!r}"


def test_no_retired_word():
    found = [hit for path in [*SOURCES, *DOCUMENTS] for hit in found_in(path)]
    assert not found, "\n".join(found)


def test_no_old_name():
    found = [f"{path.relative_to(ROOT)}: {sorted(old)}" for path in SOURCES if (old := names_in(path) & OLD_NAMES)]
    assert not found, "\n".join(found)


def test_no_docstring_under_four_words():
    found = [hit for path in SOURCES for hit in short_docstrings(path)]
    assert not found, "\n".join(found)
