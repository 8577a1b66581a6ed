"""Exception tables are read as CPython documents them; of another format the answers are the safe ones."""

import dis
import types
from pathlib import Path

import pytest

from varigrad.language import loop_position
from varigrad.language.exception_table import Protected, exception_table
from varigrad.terms import caught_errors


def with_table(table):
    """A code object with this exception table, which is never run."""
    return (lambda: None).__code__.replace(co_exceptiontable=bytes(table))


def test_pythons_code_has_an_exception_table():
    """`co_exceptiontable` is documented for CPython's developers only, and may have another name one day."""
    assert hasattr(types.CodeType, "co_exceptiontable")


def test_the_example_of_the_documentation():
    """Units 20 to 28, whose handler is at unit 100, with depth 3: five bytes."""
    assert exception_table(with_table([148, 8, 65, 36, 6])) == [Protected(40, 56, 200)]
    two = exception_table(with_table([148, 8, 65, 36, 6, 128 + 64 + 1, 0, 1, 2, 7]))
    assert two == [Protected(40, 56, 200), Protected(128, 130, 4)]


@pytest.mark.parametrize(
    "table",
    [[0], [20, 8, 1, 6], [148, 8, 1], [148, 8, 1, 6, 192], [148, 136, 1, 6], [148, 8, 1, 6, 1]],
    ids=["a zero", "no beginning", "a number short", "cut off", "two beginnings", "one number more"],
)
def test_another_format_is_not_read(table):
    assert exception_table(with_table(table)) is None


def nested(values):
    for value in values:
        try:
            with open(value) as file:
                try:
                    return [line for line in file if line]
                except ValueError:
                    continue
                finally:
                    print(value)
        except (OSError, KeyError) as error:
            print(error)
    return None


async def waiting(manager):
    async with manager as inner:
        async for item in inner:
            yield item


LONG = "def long():\n    try:\n" + "        f()\n" * 5000 + "    except OSError:\n        f()\n"


def all_codes():
    """Code objects of the standard library's `dis`, of two functions here, and of one with large offsets."""
    queue = [
        nested.__code__,
        waiting.__code__,
        compile(LONG, "", "exec"),
        compile(Path(dis.__file__).read_text(), "", "exec"),
    ]
    while queue:
        code = queue.pop()
        yield code
        queue += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def test_tables_are_as_pythons_own_reader_has_them():
    assert hasattr(dis, "_parse_exception_table"), "compare with another reader of this Python's"
    found = 0
    for code in all_codes():
        expected = [Protected(e.start, e.end, e.target) for e in dis._parse_exception_table(code)]
        assert exception_table(code) == expected
        found += len(expected)
        assert all(any(i.offset == e.target for i in dis.get_instructions(code)) for e in expected)
    assert found > 20


def test_what_cannot_be_read_counts_as_caught_and_as_outside_of_loops(monkeypatch):
    for module in (loop_position, caught_errors):
        monkeypatch.setattr(module, "exception_table", lambda code: None)
    assert caught_errors._look(types.SimpleNamespace(f_lasti=0), nested.__code__) is True
    place = max(i.offset for i in dis.get_instructions(nested.__code__))
    loop_position._inside.cache_clear()
    assert loop_position._inside(nested.__code__, place, (0, 8)) is False
    loop_position._inside.cache_clear()
