"""Calls torch's operators with samples of arguments, one of them tracked at a time, and prints what is lost.

Run by `test_operators.py` in a process of its own: torch's table of samples changes settings of the process when it is
imported. A call that told no escape loses a dependency if a tensor that it answered with carries nothing, if an
argument's memory is not what it was, or if its answer holds something that is no tensor.
"""

import json
import sys
import types
import unittest
import warnings

import torch
from torch.utils._pytree import tree_flatten, tree_map

from varigrad.errors import VarigradError
from varigrad.language.runtime import run
from varigrad.terms.provenance import NOTHING, Escapes, get_provenance, track_provenance, untracked

SOURCE = frozenset({"z"})
SAMPLES, TRACKED = 2, 3
UNDEFINED = ("empty", "new_empty")  # their values are whatever was in memory
ONE_BY_ONE = ("broadcast_tensors",)  # each result is a view of one argument, and marked by that one alone


def table():
    """torch's own table of operators with samples; it asks for a package that it needs for other things."""
    sys.modules.setdefault("expecttest", types.ModuleType("expecttest"))
    if not hasattr(sys.modules["expecttest"], "TestCase"):
        sys.modules["expecttest"].TestCase = unittest.TestCase
        sys.modules["expecttest"].assert_expected_inline = None
    from torch.testing._internal.common_methods_invocations import op_db

    return op_db


def copied(value):
    return tree_map(lambda v: v.detach().clone() if isinstance(v, torch.Tensor) else v, value)


def followable(value):
    return type(value) is torch.Tensor and value.layout is torch.strided and not value.is_nested


def call(function, args, kwargs, index):
    """The answer with the argument at `index` tracked, what escaped, and which plain arguments were written into."""
    flat, spec = tree_flatten((copied(args), copied(kwargs)))
    before = [v.clone() if followable(v) else None for v in flat]
    escapes = Escapes()
    given = list(flat)
    given[index] = track_provenance(flat[index], SOURCE, escapes)
    args, kwargs = torch.utils._pytree.tree_unflatten(given, spec)
    torch.manual_seed(0)
    answer = run(lambda: function(*args, **kwargs), (), (), {})  # as in a program: no handler stands around it
    written = [
        i
        for i, (old, new) in enumerate(zip(before, flat, strict=True))
        if old is not None and i != index and (old.shape != new.shape or not same(old, new))
    ]
    return answer, escapes.provenance, written


def same(a, b):
    if a.is_floating_point() and a.dtype.itemsize == 1:  # little is implemented for small numbers
        a, b = a.float(), b.float()
    if a.dtype is torch.complex32:
        a, b = a.to(torch.complex64), b.to(torch.complex64)
    return torch.allclose(a.resolve_conj().nan_to_num(), b.resolve_conj().nan_to_num(), rtol=1e-9, atol=1e-9)


def lost(function, args, kwargs, index, compare, one_by_one=False):
    """What a call loses, or None; and "refused" if it raises the tracker's own error.

    `one_by_one` says that the result at `index` is made of the argument there, and the others are not.
    """
    try:
        answer, escaped, written = call(function, args, kwargs, index)
    except VarigradError:
        return "refused"
    if escaped:
        return "escapes"
    if written:
        return f"LOST: writes into argument {written}"
    parts = tree_flatten(answer)[0]
    for place, part in enumerate(parts):
        if isinstance(part, torch.Tensor):
            if get_provenance(part) == NOTHING and (place == index or not one_by_one):
                return "LOST: an unmarked tensor in the answer"
            if get_provenance(part) != NOTHING and place != index and one_by_one:
                return "WRONG: marked by what it is not made of"
        elif part is not None:
            return f"LOST: {type(part).__name__} in the answer"
    torch.manual_seed(0)
    plain = tree_flatten(function(*copied(args), **copied(kwargs)))[0]
    for part, right in zip(parts, plain, strict=True):
        if isinstance(right, torch.Tensor):
            part = untracked(part)
            if part.shape != right.shape or part.dtype != right.dtype or (compare and not same(part, right)):
                return "WRONG: another value than without tracking"
    return "carries"


def variants(op):
    """The forms in which an operator can be called: function, method, in place, `out=`."""
    yield "function", op.op
    if op.method_variant is not None:
        yield "method", op.method_variant
    if op.inplace_variant is not None:
        yield "in place", op.inplace_variant
    if op.supports_out:

        def with_out(*args, **kwargs):
            outs = op.op(*copied(args), **copied(kwargs))
            outs = tree_map(lambda v: torch.empty_like(untracked(v)) if isinstance(v, torch.Tensor) else v, outs)
            return op.op(*args, **kwargs, out=outs)

        yield "out", with_out


def main(part, parts):
    found, counts, skipped = [], {}, 0
    for op in table()[part::parts]:
        dtype = torch.float64 if torch.float64 in op.dtypes else min(op.dtypes, key=str, default=torch.float32)
        try:
            samples = list(zip(range(SAMPLES), op.sample_inputs("cpu", dtype, requires_grad=False), strict=False))
        except Exception:
            skipped += 1
            continue
        for form, function in variants(op):
            for _, sample in samples:
                args, kwargs = (sample.input, *sample.args), sample.kwargs
                flat = tree_flatten((args, kwargs))[0]
                for index in [i for i, v in enumerate(flat) if followable(v)][:TRACKED]:
                    try:
                        torch.manual_seed(0)
                        function(*copied(args), **copied(kwargs))
                    except Exception:
                        continue  # not a sample for this form
                    try:
                        compare = not op.name.startswith(UNDEFINED)
                        verdict = lost(function, args, kwargs, index, compare, op.name in ONE_BY_ONE)
                    except Exception as error:
                        verdict = f"WRONG: {type(error).__name__}: {str(error)[:120]}"
                    counts[verdict.split(":")[0]] = counts.get(verdict.split(":")[0], 0) + 1
                    if verdict.startswith(("LOST", "WRONG")):
                        found.append(f"{op.name}.{op.variant_test_name} {form}, argument {index}: {verdict}")
    print(json.dumps([sorted(set(found)), counts, skipped]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]))
