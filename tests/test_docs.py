"""Documents are held to the code: their blocks run and print what they say, their links lead somewhere.

A python block that `<!-- no-run -->` precedes is left alone; a text block that `<!-- output -->` precedes is what the
block before it prints. Processors round differently, and what is on the border between two decimals falls to either
side: the last printed digit of a number with decimals may be one more or less, and everything else has to be the same.
"""

import contextlib
import io
import re
import sys
import warnings
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from varigrad import estimators
from varigrad.estimators import Baseline, Estimator

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(?:<!-- (?P<mark>[\w-]+) -->\n)?```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.M | re.S)
DECIMAL = re.compile(r"(?<![\w.])-?\d+\.(\d+)(?![\w.])")
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: what it is marked with, its language, its text and the line where that starts."""

    mark: str
    kind: str
    body: str
    line: int


def blocks(text):
    return [
        Block(m["mark"] or "", m["kind"], m["body"], text.count("\n", 0, m.start("body")) + 1)
        for m in FENCE.finditer(text)
    ]


def agree(printed, expected):
    """Whether two texts are the same up to one unit in the last digit of each number with decimals."""
    if DECIMAL.sub("#", printed) != DECIMAL.sub("#", expected):
        return False
    pairs = zip(DECIMAL.finditer(printed), DECIMAL.finditer(expected), strict=True)
    return all(
        len(one[1]) == len(other[1]) and abs(Decimal(one[0]) - Decimal(other[0])) <= Decimal(10) ** -len(other[1])
        for one, other in pairs
    )


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("a  1.455 8", True),
        ("a  1.456 8", True),
        ("a  1.454 8", True),
        ("a  1.457 8", False),
        ("a  -1.455 8", False),
        ("a  1.46 8", False),
        ("a  1.455 9", False),
        ("b  1.455 8", False),
        ("a  1.455", False),
    ],
)
def test_documents_are_held_to_all_but_the_last_digit(printed, same):
    assert agree(printed, "a  1.455 8") is same


def words(text):
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if "```python" in d.read_text()], ids=lambda d: d.name)
def test_blocks_run_and_print_what_they_say(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = ModuleType(f"document_{document.stem}")  # a real one, so that what is defined in it can be pickled
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in [n for n in sys.modules if n.split(".")[0] == "pyro"]:
        monkeypatch.delitem(sys.modules, name)  # documents about Pyro begin without it, whatever other tests import
    names = vars(module)
    printed = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for block in blocks(document.read_text()):
            if block.kind == "python" and block.mark != "no-run":
                # Lines of a traceback are the document's own.
                code = compile("\n" * (block.line - 1) + block.body, str(document), "exec")
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(code, names)
                printed = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
            elif block.mark == "output":
                assert agree(printed, block.body.rstrip("\n")), f"{document.name}, line {block.line}:\n{printed}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_somewhere(document):
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), f"{document.name}: {link}"
        if anchor:
            assert anchor in words(target.read_text()), f"{document.name}: {link}"


@pytest.mark.parametrize("document", ["README.md", "docs/estimators.md"])
def test_every_estimator_and_baseline_is_mentioned(document):
    text = (ROOT / document).read_text()
    interfaces = (Estimator, Baseline)
    public = {n for n, v in vars(estimators).items() if isinstance(v, type) and issubclass(v, interfaces)}
    leaves = public - {i.__name__ for i in interfaces}
    assert len(leaves) > 8
    assert {name for name in leaves if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_files_and_targets_named_in_documents_exist(document):
    text = FENCE.sub("", document.read_text())
    for name in re.findall(r"`((?:src|tests|examples|benchmarks|docs)/[\w/.\-]+\.\w+)`", text):
        assert (ROOT / name).exists(), f"{document.name}: {name}"
    for name in re.findall(
        r"`((?:terms|language|distributions|estimators|objectives|inference|testing)/\w+\.py)`", text
    ):
        assert (ROOT / "src" / "varigrad" / name).exists(), f"{document.name}: {name}"
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets
