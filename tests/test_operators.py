"""All of torch: a list of every operator and function, and calls of those that torch has samples of arguments for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import operators
import pytest
import torch

from varigrad.terms.operator_allowlist import TELLING
from varigrad.terms.side_effects import effect_of

PARTS = 2  # one for each of pytest's workers: a process takes seconds to import torch's samples


def in_a_process_of_its_own(script, *args):
    """What a script beside this file prints, whatever has been imported here."""
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *map(str, args)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip().splitlines()


def test_the_list_is_complete():
    """A new torch shows here what it has that nobody has looked at; `python tests/operators.py` writes a new list."""
    assert in_a_process_of_its_own("operators.py", "--check") == ["the list is complete"]


def test_an_operator_that_is_not_on_the_list_is_shown(tmp_path):
    lines = operators.LIST.read_text().splitlines()
    less = [line for line in lines if not line.startswith("aten::mul.Tensor ")]
    changed = [line.replace("  carries", "  escapes: no reason") if "aten::exp  " in line else line for line in less]
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*changed, "aten::of_another_release  carries"]))
    assert in_a_process_of_its_own("operators.py", "--check", path) == [
        "new: aten::mul.Tensor  carries",
        "gone: aten::of_another_release",
        "changed: aten::exp  escapes: no reason -> carries",
    ]


def overloads():
    """Every one that is registered, whether anything has used it in this process or not."""
    for name in sorted({schema.name for schema in torch._C._jit_get_all_schemas()}):
        space, short = name.split("::")
        if space in ("aten", "prims"):
            packet = getattr(getattr(torch.ops, space), short)
            yield from (getattr(packet, overload) for overload in packet.overloads())


def test_the_tracker_does_what_the_list_says():
    listed, seen = operators.listed(), 0
    for overload in overloads():
        key = f"{overload._schema.name}.{overload._schema.overload_name}".rstrip(".")
        if key not in listed:  # a part of torch that other tests have imported (its compiler, say) brings its own
            assert overload.namespace != "aten", key
            continue
        what, effect = listed[key], effect_of(overload)
        seen += 1
        if what.startswith("carries"):
            assert not effect.leaves, key
        elif what.startswith("escapes") and "what is no tensor" not in what:  # such an answer is seen when it comes
            assert effect.leaves, key
    assert seen > 3000


def test_every_operator_that_torch_says_has_a_shape_by_values_leaves():
    for overload in overloads():
        if torch.Tag.dynamic_output_shape in overload.tags and not overload._schema.is_mutable:
            assert overload._opname in TELLING, overload


def test_schemas_tell_what_is_written():
    assert effect_of(torch.Tensor.add_).leaves == "writes into its arguments"
    assert effect_of(torch._foreach_add_).leaves == "writes into its arguments"
    assert effect_of(torch.Tensor.copy_).leaves == "writes into its arguments"
    assert effect_of(torch.ops.aten.mul.out).leaves == "writes into its arguments"
    assert effect_of(torch.ops.aten.set_.source_Tensor).leaves == "writes into its arguments"
    assert not effect_of(torch.mul).leaves
    assert not effect_of(torch.Tensor.__pow__).leaves
    assert effect_of(torch.Tensor.__ipow__).leaves


def test_what_torch_does_not_know_leaves():
    class Callable:
        __hash__ = None

        def __call__(self):
            return None

    assert effect_of(len).leaves
    assert effect_of(lambda: None).leaves
    assert effect_of(Callable()).leaves
    assert effect_of(torch.Tensor.grad_fn.__get__).leaves == "" and not effect_of(torch.Tensor.grad_fn.__get__).silent


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_by_any_call_that_torch_has_samples_for(part):
    """As function, method, in place and with `out=`; one argument tracked at a time."""
    found, counts, skipped = json.loads(in_a_process_of_its_own("operator_samples.py", part, PARTS)[-1])
    assert found == []
    assert skipped == 0
    assert counts["carries"] > 200
    assert counts["escapes"] > 100
