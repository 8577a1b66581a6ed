"""What tells the specialisations of a step apart: everything that a graph takes for granted of its arguments."""

import math

import numpy as np
import pytest
import torch
from graph_harness import by_graph, svi_of, taken

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.step.signature import Signatures

X = torch.zeros(3, 3)


def keys(*calls):
    """The keys of calls, one after the other."""
    signatures = Signatures()
    return [signatures.of(args, {})[1] for args in calls]


DIFFERENT = {
    "shapes": ((X,), (X[:2],)),
    "strides": ((torch.zeros(3, 2),), (torch.zeros(2, 3).t(),)),
    "types": ((X,), (X.double(),)),
    "leaves and others": ((X.clone(),), (X.clone().requires_grad_(),)),
    "one tensor twice": ((X, X), (X, X.clone())),
    "which of them is twice": ((X, Y := X.clone(), X), (X, Y, Y)),
    "truth values": ((X, True), (X, False)),
    "truth values and numbers": ((X, True), (X, 1)),
    "whole numbers and others": ((X, 1), (X, 1.0)),
    "texts": (("a",), ("b",)),
    "nothing and something": ((None,), (0.5,)),
    "objects": ((object(),), (object(),)),
    "trees": (([X, X],), ((X, X),)),
    "names": (({"a": X},), ({"b": X},)),
    "results and leaves": ((X.clone().requires_grad_(),), (X.clone().requires_grad_() * 1,)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_arguments_that_make_another_graph_have_another_key(name):
    one, other = keys(*DIFFERENT[name])
    assert one != other


def test_values_and_addresses_do_not_count():
    again = object()
    for one, other in (((X,), (X + 1,)), ((X, [again]), (X.clone(), [again])), (("a", 3), ("a", 3))):
        first, second = keys(one, other)
        assert first == second and hash(first) == hash(second)


def test_settings_of_torch_count():
    signatures = Signatures()
    one = signatures.of((X,), {})[1]
    torch.set_default_dtype(torch.float64)
    try:
        assert signatures.of((X,), {})[1] != one
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = signatures.of((X,), {})[1]
    assert mixed != one and signatures.of((X,), {})[1] == one


def test_a_number_that_changes_is_lifted_from_then_on():
    signatures = Signatures()
    calls = [signatures.of((X, n, 7.5), {}) for n in (0.5, 0.5, 0.25, 0.125, 0.5)]
    assert [sorted(call.lifted) for call, _ in calls] == [[], [], [1], [1], [1]]
    first, again, *lifted = [key for _, key in calls]
    assert first == again and len({*lifted}) == 1 and lifted[0] != first
    # What single precision does not hold stays a number of Python's.
    large, key = signatures.of((X, float(2**24), 7.5), {})
    assert not large.lifted and key not in (first, lifted[0])
    flags = Signatures()
    assert not any(flags.of((X, flag), {})[0].lifted for flag in (True, False, True))
    assert signatures.of((X, np.float64(0.3), 7.5), {})[0].lifted == frozenset()


def test_lifted_numbers_are_part_of_a_state_and_a_refusal_ends_them():
    signatures = Signatures()
    for n in (1, 2):
        call, key = signatures.of((X, n), {})
    assert call.lifted == {1}
    other = Signatures()
    other.load_state(signatures.state())
    assert other.of((X, 5), {}) == (other.of((X, 5), {})[0], key) and other.of((X, 5), {})[0].lifted == {1}
    signatures.lift_none(call.base, "Python needs it")
    assert not signatures.of((X, 3), {})[0].lifted and signatures.of((X, 3), {})[1] != signatures.of((X, 4), {})[1]
    assert not signatures.state()


def test_a_step_reads_its_own_arguments_and_not_those_of_the_last():
    """Maximum likelihood: the loss is known, with and without a graph."""

    def model(data):
        vg.sample("x", dist.Normal(vg.param("m", torch.zeros(())), 1.0).expand([3]).to_event(1), obs=data)

    with by_graph():
        svi = svi_of(model, lambda data: None, optim=vg.optim.SGD(lr=1e-9))
        for i in range(8):
            expected = 1.5 * (math.log(2 * math.pi) + (i % 3) ** 2)
            assert svi.step(torch.full((3,), float(i % 3))) == pytest.approx(expected, abs=1e-4)
        assert taken(svi) == 6
