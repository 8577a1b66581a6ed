"""Deliberate mistakes in the package, all of which the tests have to notice; one file for each subject.

A file of this folder names its mistakes in `MUTANTS`; `python -m mutants` finds it by itself. Each mistake names what
is expected to break: a law of `tests/laws`, or a test.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mistake: in `file` of the package, the only occurrence of `old` becomes `new`.

    Args:
        name: what is wrong, in a few words.
        file: where, from `src/varigrad`.
        old: the fragment; exactly once in the file.
        new: what takes its place.
        law: what is expected to break. A test as pytest names it, from `tests/`
            (`"test_step.py::test_layouts[w.sum()]"`, or a whole file `"test_step.py"`); anything else is the beginning
            of a law's name in `tests/laws`.
        also: further `(file, old, new)` of the same mistake.
    """

    name: str
    file: str
    old: str
    new: str
    law: str
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def changes(self) -> tuple[tuple[str, str, str], ...]:
        """All changes, as `(file, old, new)`."""
        return ((self.file, self.old, self.new), *self.also)

    @property
    def by_pytest(self) -> bool:
        """Whether `law` is a test of pytest."""
        return self.law.split("::")[0].endswith(".py")


M = Mutant
