"""Functions of tensors as one graph in C, beside what torch makes of them."""

import torch
from graph_harness import assert_close

from varigrad.compile.backends.c.codegen import emit
from varigrad.compile.trace.traced_function import TracedFunction

NONSENSE = 255
"""The byte that a program's memory is filled with at first: NaN, -1, or no truth value at all."""


def recorded(functions, inputs):
    """Functions of the inputs as one graph, what they give in Python, and where the graph writes it."""

    def results():
        return [r for f in functions for r in listed(f(*inputs))]

    expected = results()
    targets = [torch.zeros_like(e, memory_format=torch.contiguous_format) for e in expected]
    return TracedFunction(results, [*inputs, *targets], targets, {}), expected, targets


def listed(result):
    return [r.clone() for r in result] if isinstance(result, (tuple, list)) else [result.clone()]


def check(functions, inputs, calls=False):
    step, expected, found = recorded(functions, inputs)
    made = emit(step.graph.operations).calls
    assert calls or not made, made
    compilation = step.compile()
    compilation.ready(wait=True)
    assert compilation.library is not None and compilation.library.maker == "C", compilation.failure
    compilation.library._own.fill_(NONSENSE)  # what is read before it is written shows
    step.run()
    wrong, left = [], iter(zip(expected, found, strict=True))
    for i, function in enumerate(functions):
        for _ in listed(function(*inputs)):
            e, f = next(left)
            try:
                assert_close(f, e, rtol=3e-5 if e.dtype == torch.float32 else 1e-12, atol=1e-6)
            except AssertionError as error:
                wrong.append((i, str(error)[:300], e, f))
    assert not wrong, wrong
