"""What follows a sequential plate's loop is outside of it, however the loop has ended and whatever keeps it alive."""

import pytest

import varigrad as vg
from varigrad import distributions as dist
from varigrad.language.runtime import run
from varigrad.language.trace import Recorder


def sample(name):
    return vg.sample(name, dist.Normal(0.0, 1.0))


def plates_of(program):
    recorder = Recorder()
    run(program, (recorder,), (), {})
    return {name: [p.name for p in m.plates] for name, m in recorder.messages.items()}


def ended_at_once():
    for _ in vg.plate("n", 3):
        raise KeyError


def ended_in_a_variable():
    loop = iter(vg.plate("n", 3))
    for _ in loop:
        raise KeyError


def fails(i):
    raise KeyError


def ended_in_a_comprehension():
    return [fails(i) for i in vg.plate("n", 3)]


def ended_in_a_generator():
    return sum(fails(i) for i in vg.plate("n", 3))


def ended_in_a_generator_of_ones_own():
    def rows():
        yield from vg.plate("n", 3)

    for _ in rows():
        raise KeyError


def ended_in_zip():
    for _ in zip(vg.plate("n", 3), range(3), strict=False):
        raise KeyError


ENDED = (
    ended_at_once, ended_in_a_variable, ended_in_a_comprehension, ended_in_a_generator,
    ended_in_a_generator_of_ones_own, ended_in_zip,
)  # fmt: skip


@pytest.mark.parametrize("ended", ENDED)
@pytest.mark.parametrize("how", ["in except", "in a call", "in another plate of that name", "in finally"])
def test_what_handles_an_error_is_outside_of_the_loop_that_it_ended(ended, how):
    def program():
        try:
            ended()
        except KeyError:
            if how == "in except":
                sample("x")
            elif how == "in a call":
                (lambda: sample("x"))()
            elif how == "in another plate of that name":
                with vg.plate("n", 3):
                    sample("x")
            else:
                try:
                    raise ValueError
                except ValueError:
                    pass
                finally:
                    sample("x")
        sample("after")

    inside = ["n"] if how == "in another plate of that name" else []
    assert plates_of(program) == {"x": inside, "after": []}


def test_a_loop_of_this_function_that_a_variable_keeps():
    def program():
        loop = iter(vg.plate("n", 3))
        try:
            for i in loop:
                sample(f"inside{i}")
                raise KeyError
        except KeyError:
            sample("x")
        other = iter(vg.plate("m", 2))
        for _ in other:
            break
        sample("after")
        for i in vg.plate("n", 2):
            sample(f"again{i}")

    found = plates_of(program)
    assert found == {"inside0": ["n"], "x": [], "after": [], "again0": ["n"], "again1": ["n"]}


def test_all_that_a_loop_does_is_inside():
    """Errors that its body handles, calls, blocks, generators that yield from within it, steps by hand."""

    def rows():
        for i in vg.plate("rows", 2):
            yield i, sample(f"in_rows{i}")

    def program():
        loop = iter(vg.plate("n", 2))
        for i in loop:
            with vg.plate("m", 3):
                try:
                    fails(i)
                except KeyError:
                    sample(f"except{i}")
                    try:
                        raise ValueError
                    except ValueError:
                        sample(f"nested{i}")
                    finally:
                        sample(f"finally{i}")
            for j in vg.plate("k", 2):
                try:
                    fails(j)
                except KeyError as error:
                    sample(f"{error!r:.3}{i}{j}")
        for i, _ in rows():
            sample(f"of_rows{i}")
        list(map(lambda i: sample(f"mapped{i}"), vg.plate("map", 2)))  # noqa: C417 - what asks is no loop
        by_hand = iter(vg.plate("hand", 2))
        sample(f"hand{next(by_hand)}")
        sample(f"hand{next(by_hand)}")
        assert next(by_hand, None) is None
        sample("after")

    found = plates_of(program)
    expected = {}
    for i in range(2):
        expected |= {name: ["n", "m"] for name in (f"except{i}", f"nested{i}", f"finally{i}")}
        expected |= {f"Key{i}{j}": ["n", "k"] for j in range(2)}
        expected |= {f"in_rows{i}": ["rows"], f"of_rows{i}": ["rows"], f"mapped{i}": ["map"], f"hand{i}": ["hand"]}
    assert found == {**expected, "after": []}
