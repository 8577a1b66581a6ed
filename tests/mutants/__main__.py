"""Try every mutant, two at a time: `make mutants`, or a part of them.

    PYTHONPATH=tests .venv/bin/python -m mutants [part of a name, or a subject ...]

A mutant is made in a copy of the package, and the law that it names runs against the copy in a process of its own. A
law of `tests/laws` or `tests/step_laws.py` that holds nevertheless is followed by all the others. A subject is the
name of a file of this folder. The run fails if a mutant survives, if a fragment is no longer in the source (LOST, so
that these lists cannot rot), if a process ends without a verdict (CRASHED: it died, or pytest could not collect or find
the test; TIMEOUT), if a mutant cannot run at all (NONSENSE), or if the source itself breaks a law (BROKEN).

Processes are forks of this one, which has imported torch and pytest for all of them.
"""

import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pytest
import torch

from mutants import Mutant

TESTS = Path(__file__).resolve().parent.parent
SOURCE = Path(os.environ.get("MUTANTS_SOURCE", TESTS.parent / "src"))
AT_ONCE = int(os.environ.get("MUTANTS_AT_ONCE", "2"))
SECONDS = 300
NONSENSE = ("NameError", "AttributeError", "ImportError", "ModuleNotFoundError", "SyntaxError", "UnboundLocalError")
GOOD = ("killed", "holds")
FORK = multiprocessing.get_context("fork")


@dataclass
class Trial:
    """One process: a mutant, or the source as it is, and the laws it has to break, or not to break."""

    mutant: Mutant | None
    laws: tuple[str, ...]
    by_pytest: bool
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mutant-")))
    start: float = field(default_factory=time.perf_counter)
    process: multiprocessing.process.BaseProcess | None = None

    @property
    def name(self) -> str:
        """What the table calls it."""
        if self.mutant:
            return self.mutant.name
        return f"(the source as it is, by {'tests' if self.by_pytest else 'laws'})"

    def begin(self) -> str | None:
        """Start the process; else say what is wrong with the mutant."""
        wrong = mutated(self.mutant, self.folder)
        if wrong is None:
            self.process = FORK.Process(
                target=_child, args=(self.folder, self.laws, self.by_pytest, self.mutant is not None)
            )
            self.process.start()
        return wrong

    @property
    def most_seconds(self) -> int:
        """How long it may take."""
        return SECONDS if self.mutant else 4 * SECONDS

    def verdict(self) -> tuple[str, str]:
        """One word (one of `GOOD` if it is as it should be), and by what (or why not)."""
        assert self.process is not None
        if self.process.is_alive():
            return "TIMEOUT", f"no verdict after {self.most_seconds} s"
        try:
            broken, how, holds = json.loads((self.folder / "verdict").read_text())
        except (FileNotFoundError, ValueError):
            output = self.folder / "output"
            printed = output.read_text(errors="replace").strip().splitlines()[-1:] if output.exists() else []
            return "CRASHED", f"ended with {self.process.exitcode}: {''.join(printed)[:100]}"
        if self.mutant is None:
            good = broken is None and holds > 0
            return "holds" if good else "BROKEN", f"{holds} hold" if broken is None else f"{broken} ({how})"
        if broken is None:
            return "SURVIVED", f"{holds} hold"
        if how in NONSENSE:
            return "NONSENSE", f"it cannot run: {how} in {broken!r}"
        return "killed", broken if how == "AssertionError" else f"{broken} ({how})"

    def end(self) -> None:
        """Stop what is left of it, with everything it started, and clear away its folder."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # of nobody, if it has ended, or was not yet a group
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.kill()
            self.process.join()
        shutil.rmtree(self.folder, ignore_errors=True)


def mutated(mutant: Mutant | None, folder: Path) -> str | None:
    """Copy the package with the mutant in it; what is wrong with the mutant, if anything."""
    shutil.copytree(SOURCE / "varigrad", folder / "varigrad")
    for file, old, new in mutant.changes if mutant else ():
        path = folder / "varigrad" / file
        text = path.read_text()
        if text.count(old) != 1:
            return f"its text is {text.count(old)} times in {file}: {old!r}"
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
            stale.unlink()
        path.write_text(text.replace(old, new))
    return None


def _child(folder: Path, laws: tuple[str, ...], by_pytest: bool, others: bool) -> None:
    os.setsid()  # a group of its own, compilers included, to be stopped as one
    signal.signal(signal.SIGINT, signal.default_int_handler)  # laws of Ctrl-C send the signal to themselves
    with (folder / "output").open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    path = [str(folder), str(TESTS)]
    sys.path[:0] = path
    os.environ.update(PYTHONPATH=os.pathsep.join(path), VARIGRAD_CACHE=str(folder / "cache"))
    os.chdir(folder)
    import varigrad

    assert Path(varigrad.__file__).is_relative_to(folder), varigrad.__file__
    torch.set_num_threads(1)
    found = _first_failing(laws) if by_pytest else _first_broken(laws, others)
    (folder / "verdict").write_text(json.dumps(found))


def _first_broken(expected: tuple[str, ...], others: bool) -> tuple[str | None, str, int]:
    """The first law that does not hold, and how many held; those whose names start as expected, then the `others`."""
    laws: dict[str, Callable[[], None]] = {}
    for module in ("laws", "step_laws", "laws_of_runs"):  # what is needed only: a mutant imports it anew
        if others or not all(any(name.startswith(e) for name in laws) for e in expected):
            laws = {**laws, **importlib.import_module(module).LAWS}
    warnings.simplefilter("ignore")
    first = [name for name in laws if name.startswith(expected)]
    missing = [e for e in expected if not any(name.startswith(e) for name in laws)]
    if missing:
        raise ValueError(f"there is no law {missing}")
    order = [*first, *(n for n in laws if others and n not in first)]
    for count, name in enumerate(order):
        torch.manual_seed(20261123)
        try:
            laws[name]()
        except (Exception, KeyboardInterrupt, pytest.fail.Exception) as error:
            traceback.print_exc()
            return name, type(error).__name__, count
    return None, "", len(order)


class _Verdict:
    """A plugin of pytest: the first test that fails, and how many pass."""

    failed: str | None = None
    how = ""
    passed = 0

    def pytest_exception_interact(self, node: pytest.Item, call: pytest.CallInfo[object]) -> None:
        self.failed = self.failed or node.nodeid
        self.how = self.how or (call.excinfo.typename if call.excinfo else "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed


def _first_failing(tests: tuple[str, ...]) -> tuple[str | None, str, int]:
    verdict = _Verdict()
    options = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={TESTS.parent}"]
    options += ["-c", str(TESTS.parent / "pyproject.toml"), "-m", ""]
    code = pytest.main([*options, *(str(TESTS / test) for test in tests)], plugins=[verdict])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or (verdict.failed, verdict.passed) == (None, 0):
        raise ValueError(f"pytest ran nothing for {tests}: {code!r}")
    return verdict.failed, verdict.how, verdict.passed


def subjects() -> dict[str, tuple[Mutant, ...]]:
    """The mutants of every file of this folder, by the file's name."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    return {name: importlib.import_module(f"mutants.{name}").MUTANTS for name in names}


def trials(wanted: Sequence[str]) -> list[tuple[Mutant | None, tuple[str, ...], bool]]:
    """The source as it is, held to the laws and tests that mutants name; then the mutants that are wanted."""
    every = [(subject, m) for subject, mutants in subjects().items() for m in mutants]
    twice = [name for name, count in Counter(m.name for _, m in every).items() if count > 1]
    if twice:
        raise ValueError(f"two mutants have one name: {twice}")
    chosen = [m for s, m in every if not wanted or any(w == s or w in m.name for w in wanted)]
    named = {way: tuple(sorted({m.law for m in chosen if m.by_pytest is way})) for way in (False, True)}
    sound = [(None, laws, way) for way, laws in named.items() if laws]
    return [*sound, *((m, (m.law,), m.by_pytest) for m in chosen)]


def main(wanted: Sequence[str], out: TextIO = sys.stdout) -> int:
    """Try them, `AT_ONCE` at a time; each name appears as soon as its verdict is there."""
    start = time.perf_counter()
    waiting, running, bad = trials(wanted), [], []
    count = sum(mutant is not None for mutant, *_ in waiting)

    def say(trial: Trial, verdict: str, by: str) -> None:
        seconds = time.perf_counter() - trial.start
        print(f"{trial.name:<52} {verdict:<9} {seconds:5.1f} s  {by}", file=out, flush=True)
        if verdict not in GOOD:
            bad.append(f"{trial.name} ({verdict})")

    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                trial = Trial(*waiting.pop(0))
                running.append(trial)
                wrong = trial.begin()
                if wrong:
                    running.remove(trial)
                    say(trial, "LOST", wrong)
                    trial.end()
            multiprocessing.connection.wait([t.process.sentinel for t in running if t.process], timeout=1)
            for trial in list(running):
                late = time.perf_counter() - trial.start > trial.most_seconds
                if late or not (trial.process and trial.process.is_alive()):
                    say(trial, *trial.verdict())
                    running.remove(trial)
                    trial.end()
    finally:
        for trial in running:
            trial.end()
    print(
        f"{count} mutants, {time.perf_counter() - start:.0f} s: {f'NOT GOOD: {bad}' if bad else 'all killed'}", file=out
    )
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted")
