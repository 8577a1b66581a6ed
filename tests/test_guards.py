"""Guards notice each kind of thing that a program reads from Python, and say which; what stays they let pass."""

import array
import contextvars
import functools
import random
import types
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from varigrad.compile.trace import guards
from varigrad.compile.trace.guards import Guards

RATE = 2
LISTED = [1, 2]
VARIABLE = contextvars.ContextVar("variable", default=1)


class Kept:
    """An object of a user's class, with everything that such a class may have."""

    shared = 1
    __slots__ = ("__dict__", "slot")

    def __init__(self):
        self.slot, self.plain, self.nested = 1, 2, {"a": [1, {"b": 2}]}

    def method(self):
        return self.plain

    @property
    def derived(self):
        return self.plain


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.inner = 2, nn.Linear(2, 2)


def closure(value):
    def program():
        return value

    return program


def by_default(x=1, *, y=2):
    return x, y


def reads_globals():
    return RATE, LISTED


def set_global(name, value):
    globals()[name] = value


def set_cell(program, value):
    program.__closure__[0].cell_contents = value


def other_code():
    return 7


def same_names(x):
    return RATE + LISTED[0] + x


def on_a_plain_class():
    """A class of its own each time, since it is changed."""
    return type("Own", (), {"shared": 1, "method": lambda self: 1, "__module__": __name__})()


def inherited():
    base = type("Base", (), {"shared": 1, "__module__": __name__})
    return type("Derived", (base,), {"__module__": __name__})()


# name -> (what makes a program, what changes it, what the message has to say)
CHANGES = {
    "a closure": (lambda: closure(3), lambda p: set_cell(p, 4), "'value' was 3 and is 4"),
    "a type only": (lambda: closure(1), lambda p: set_cell(p, 1.0), "'value' was 1 and is 1.0"),
    "a truth value": (lambda: closure(1), lambda p: set_cell(p, True), "'value' was 1 and is True"),
    "a global": (lambda: reads_globals, lambda p: set_global("RATE", 5), "'RATE' was 2 and is 5"),
    "an element of a global": (lambda: reads_globals, lambda p: LISTED.__setitem__(1, 9), "'LISTED'[1] was 2 and is 9"),
    "a longer list": (lambda: reads_globals, lambda p: LISTED.append(3), "had 2 entries and has 3"),
    "a default": (lambda: by_default, lambda p: setattr(p, "__defaults__", (8,)), "__defaults__ of"),
    "a default by keyword": (lambda: by_default, lambda p: p.__kwdefaults__.update(y=3), "was 2 and is 3"),
    "the code": (lambda: closure, lambda p: setattr(p, "__code__", other_code.__code__), "__code__ of"),
    "an attribute of a function": (lambda: by_default, lambda p: setattr(p, "extra", 1), "entries and has"),
    "an attribute": (Kept, lambda p: setattr(p, "plain", 3), "Kept.plain was 2 and is 3"),
    "a new attribute": (on_a_plain_class, lambda p: setattr(p, "later", 3), "had 0 entries and has 1"),
    "a slot": (Kept, lambda p: setattr(p, "slot", 3), "Kept.slot was 1 and is 3"),
    "deep inside": (Kept, lambda p: p.nested["a"][1].update(b=3), "was 2 and is 3"),
    "a key": (Kept, lambda p: p.nested.update(c=p.nested.pop("a")), "was 'a' and is 'c'"),
    "a class's attribute": (on_a_plain_class, lambda p: setattr(type(p), "shared", 2), "shared was 1 and is 2"),
    "a class's method": (on_a_plain_class, lambda p: setattr(type(p), "method", lambda self: 2), "method"),
    "a base's attribute": (inherited, lambda p: setattr(type(p).__mro__[1], "shared", 2), "shared was 1 and is 2"),
    "a base of a class": (
        lambda: closure(type(inherited())),
        lambda p: setattr(p.__closure__[0].cell_contents.__mro__[1], "shared", 2),
        "shared was 1 and is 2",
    ),
    "self of a method": (lambda: Kept().method, lambda p: setattr(p.__self__, "plain", 3), "plain was 2 and is 3"),
    "an argument of a partial": (
        lambda: functools.partial(max, [1], key={"a": 1}),
        lambda p: p.keywords["key"].update(a=2),
        "1 and is 2",
    ),
    "a set": (lambda: closure({1, 2}), lambda p: p.__closure__[0].cell_contents.add(3), "had 2 entries and has 3"),
    "a deque": (lambda: closure(deque([1, 2])), lambda p: p.__closure__[0].cell_contents.rotate(1), "was 1 and is 2"),
    "a list inside a tuple": (
        lambda: closure((1, [2])),
        lambda p: p.__closure__[0].cell_contents[1].append(3),
        "entries",
    ),
    "an empty list": (
        lambda: closure([]),
        lambda p: p.__closure__[0].cell_contents.append(3),
        "had 0 entries and has 1",
    ),
    "a module's number": (Wrapped, lambda p: setattr(p, "scale", 3), "scale was 2 and is 3"),
    "a module's mode": (Wrapped, lambda p: p.eval(), "training"),
    "an inner module's mode": (Wrapped, lambda p: p.inner.eval(), "training"),
    "an inner module's hook": (
        Wrapped,
        lambda p: p.inner.register_forward_hook(lambda *a: None),
        "had 0 entries and has 1",
    ),
    "another parameter": (Wrapped, lambda p: setattr(p.inner, "bias", nn.Parameter(torch.zeros(2))), "bias"),
    "an array": (lambda: closure(np.arange(3)), lambda p: p.__closure__[0].cell_contents.fill(7), "the numbers in"),
    "bytes": (lambda: closure(bytearray(b"ab")), lambda p: p.__closure__[0].cell_contents.reverse(), "the numbers in"),
    "an array of Python's": (
        lambda: closure(array.array("i", [1, 2])),
        lambda p: p.__closure__[0].cell_contents.reverse(),
        "the numbers in",
    ),
    "a context variable": (lambda: closure(VARIABLE), lambda p: VARIABLE.set(2), "was 1 and is 2"),
    "a namespace": (
        lambda: closure(SimpleNamespace(a=1)),
        lambda p: setattr(p.__closure__[0].cell_contents, "a", 2),
        "was 1 and is 2",
    ),
    "another tensor": (
        lambda: closure(torch.zeros(2)),
        lambda p: set_cell(p, torch.zeros(2)),
        "a tensor of shape (2,)",
    ),
    "a tensor's hooks": (
        lambda: closure(torch.zeros(2, requires_grad=True)),
        lambda p: p.__closure__[0].cell_contents.register_hook(lambda g: g),
        "the hooks of",
    ),
    "a deleted global": (lambda: reads_globals, lambda p: globals().pop("RATE"), "'RATE' was 2"),
}


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    set_global("RATE", 2)
    LISTED[:] = [1, 2]
    VARIABLE.set(1)
    by_default.__defaults__, by_default.__kwdefaults__ = (1,), {"y": 2}
    vars(by_default).clear()


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed_and_named(name, monkeypatch):
    make, change, says = CHANGES[name]
    program = make()
    code = program.__code__ if isinstance(program, types.FunctionType) else None
    found = Guards([program])
    assert found.changed() == ""
    try:
        change(program)
        assert says in found.changed()
    finally:
        if code is not None:
            program.__code__ = code


def test_what_is_equal_is_no_change():
    program = closure("a text")
    found = Guards([program, Kept()])
    set_cell(program, "".join(["a ", "text"]))
    set_global("RATE", int("2"))
    assert found.changed() == ""


def test_values_that_python_looked_at_have_to_stay():
    read, other, large = torch.zeros(3), torch.zeros(3), torch.zeros(2**19)
    found = Guards([])
    found.hold([], [read, large])
    other.add_(1)
    assert found.changed() == ""
    read.data.add_(1)  # no version tells of that
    assert "has been written to" in found.changed()
    read.data.sub_(1)
    assert found.changed() == ""
    large.add_(1)
    assert "has been written to" in found.changed()


def test_constants_have_to_stay_where_they_are():
    constant = torch.zeros(4)
    found = Guards([])
    found.hold([constant], [])
    constant.add_(1)
    assert found.changed() == ""  # a graph reads it in place
    constant.resize_(2, 2)
    assert "another shape" in found.changed()
    constant.resize_(4)
    assert found.changed() == ""
    constant.data = torch.zeros(4)
    assert "lies elsewhere" in found.changed()


def test_arrays_that_a_graph_reads_in_place_may_change_if_they_are_large():
    small, large, alone = np.zeros(4), np.zeros(guards.SMALL), np.zeros(guards.SMALL)
    huge = np.zeros(guards.LARGE)
    found = Guards([closure(small), closure(large), closure(alone), closure(huge)])
    found.hold([torch.from_numpy(small), torch.from_numpy(large)], [])
    large += 1
    huge += 1
    assert found.changed() == ""
    for values in (small, alone):
        values += 1
        assert "the numbers in" in found.changed()
        values -= 1
        assert found.changed() == ""


def test_draws_from_pythons_generators_are_noticed():
    own, of_numpy = random.Random(1), np.random.default_rng(1)
    found = Guards([closure(own), closure(of_numpy)])
    assert found.randomness_used() == ""
    for draw, says in (
        (own.random, "value"),
        (of_numpy.random, "value"),
        (random.random, "Python's `random`"),
        (np.random.random, "numpy's global generator"),
    ):
        fresh = Guards([closure(own), closure(of_numpy)])
        draw()
        assert says in fresh.randomness_used()


def test_no_more_variables_than_the_limit(monkeypatch):
    monkeypatch.setattr(guards, "LIMIT", 30)
    near, far = [1, 2], list(range(100))
    found = Guards([closure(near), closure(far)])
    far[3] = 7
    assert found.changed() == ""
    near[0] = 5
    assert found.changed()
    near[0] = 1
    far.append(1)
    assert "had 100 entries and has 101" in found.changed()

    deep = closure([5])
    for _ in range(9):
        deep = closure(deep)
    found, inner = Guards([deep]), deep
    while callable(inner):
        innermost, inner = inner, inner.__closure__[0].cell_contents
    set_cell(innermost, [6])
    assert found.changed() == ""
    set_cell(deep, None)
    assert found.changed()
