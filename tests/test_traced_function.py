"""A traced function beside Python: what agrees, what differs and where, and what is as it was afterwards."""

import math

import pytest
import torch

from varigrad.compile.graph.errors import CaptureError
from varigrad.compile.trace.traced_function import TracedFunction
from varigrad.compile.trace.tracer import trace


class Program:
    """A function of `x` that adds what it is told to, behind the graph's back."""

    def __init__(self, size=4):
        self.x = torch.arange(1.0, size + 1)
        self.target = torch.zeros(size)
        self.added, self.runs = torch.zeros(size), 0
        self.step = TracedFunction(self.run, [self.x, self.target], [self.target], {})

    def run(self):
        self.runs += 1
        return [self.x * 2 + self.added.clone().add_(0) if self.runs > 1 else self.x * 2 + torch.zeros(len(self.x))]


def test_what_agrees_is_kept():
    program = Program()
    assert program.step.agrees() is None
    assert program.target.tolist() == [2, 4, 6, 8]


@pytest.mark.parametrize(("added", "found"), [(0.1, 8.0), (math.nan, 8.0), (math.inf, 8.0)])
def test_what_differs_is_named_and_pythons(added, found):
    program = Program()
    program.added[3] = added
    difference = program.step.agrees()
    assert difference is not None and (difference.target, difference.element) == (0, 3)
    assert difference.found == found and difference.steady
    assert math.isnan(difference.expected) if math.isnan(added) else difference.expected == pytest.approx(8 + added)
    assert program.target[:3].tolist() == [2, 4, 6] and program.target[3] != 8


def test_the_largest_difference_is_named():
    program = Program()
    program.added[1], program.added[2] = 0.5, -3.0
    assert program.step.agrees().element == 2


def test_rounding_is_no_difference():
    program = Program()
    program.added[3] = 8 * 1e-4
    assert program.step.agrees() is None and program.target[3] == 8
    program.added[3] = 8 * 1e-3
    assert program.step.agrees() is not None


def test_the_tolerance_is_relative_to_the_largest_entry():
    program = Program(1)
    program.added[0] = 2 * 2e-4
    assert program.step.agrees() is None
    program.x[0], program.added[0] = 1e-6, 2e-6 * 1e-3
    assert program.step.agrees() is not None


def test_python_that_does_not_agree_with_itself():
    x, target, count = torch.ones(2), torch.zeros(2), []

    def run():
        count.append(1)
        return [x * 2 + torch.full((2,), float(len(count)))]

    step = TracedFunction(run, [x, target], [target], {})
    difference = step.agrees()
    assert difference is not None and not difference.steady


def test_a_difference_that_rounding_of_parameters_explains():
    """Nothing but rounding is left of a small difference of large numbers."""
    parameter, target, more = torch.nn.Parameter(torch.tensor([1e6, 2e6])), torch.zeros(2), torch.zeros(2)
    step = TracedFunction(
        lambda: [((parameter + more) - parameter.detach().round()).detach() * 1],
        [parameter, more, target],
        [target],
        {},
    )
    assert step.agrees() is None
    function, step.function = step.function, lambda: [r + 0.2 for r in function()]
    assert step.agrees() is None
    step.function = lambda: [r + 200.0 for r in function()]
    assert step.agrees() is not None


def test_everything_is_as_it_was_after_an_error():
    program = Program()
    program.target.fill_(5)

    def fails():
        program.target.fill_(7)
        raise ValueError("no")

    program.step.function = fails
    with pytest.raises(ValueError, match="no"):
        program.step.agrees()
    assert program.target.tolist() == [5] * 4
    program.step.function = program.run
    program.step.run = fails
    with pytest.raises(ValueError, match="no"):
        program.step.agrees()
    assert program.target.tolist() == [5] * 4


def test_snapshots_bring_back_tensors_and_generators():
    program = Program()
    torch.manual_seed(1)
    before = program.step.snapshot()
    first = torch.rand(2)
    program.step.run()
    assert program.target.any()
    program.step.restore(before)
    assert not program.target.any() and torch.equal(torch.rand(2), first)


def test_whole_numbers_have_to_be_equal():
    n, target, added = torch.tensor([2**20]), torch.zeros(1, dtype=torch.int64), [0]
    step = TracedFunction(lambda: [n * 2 + added[0]], [n, target], [target], {})
    assert step.agrees() is None
    added[0] = 1
    assert step.agrees() is not None


def test_parts_of_a_flat_target_are_read_there():
    flat, target = torch.arange(6.0), torch.zeros(3)
    part, other = flat[1:3].clone(), flat[3:6].clone()
    slices = {id(part): (flat, 1), id(other): (flat, 3)}
    step = TracedFunction(
        lambda: [torch.cat([flat[:1], part * 2, other * 3]), other + 1],
        [flat, target, part, other],
        [flat, target],
        slices,
    )
    step.run()
    assert flat.tolist() == [0, 2, 4, 9, 12, 15] and target.tolist() == [4, 5, 6]
    step.run()
    assert flat.tolist() == [0, 4, 8, 27, 36, 45] and target.tolist() == [10, 13, 16]
    assert step.position(part) is None and step.position(target) == 1


def test_inputs_that_share_memory_with_a_target_are_refused():
    target = torch.zeros(4)
    view = target[1:3]
    with pytest.raises(CaptureError, match="a view of a parameter"):
        TracedFunction(lambda: [target + view.sum()], [target], [target], {})


def test_decompositions_that_fail_have_no_numbers():
    x = torch.eye(2)
    graph = trace(lambda: [torch.linalg.cholesky(x * 1.0)], [x])
    (found,) = graph.module(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), *graph.constants)
    assert found.isnan().all()


def test_what_is_written_through_a_view_varies():
    x = torch.ones(2)

    def program():
        t = torch.zeros(2)
        t.narrow(0, 0, 2).copy_(x)
        return [x * 2 if t.sum() > 0 else x]

    with pytest.raises(CaptureError, match="value of a tensor"):
        trace(program, [x])


def test_lists_of_tensors_that_outlive_the_call_are_not_written_into():
    x, kept = torch.ones(2), torch.zeros(2)

    def program():
        torch._foreach_add_([kept], [x])
        return [kept * 1]

    with pytest.raises(CaptureError, match="it writes into a tensor that outlives the call"):
        trace(program, [x])
