"""Compiled steps that fail or are wrong in one number, and what the user has to be told."""

from dataclasses import replace

import torch
from graph_harness import assert_close, by_graph, by_python, heard, specializations, svi_of
from programs_for_svi import DATA, normal_guide, normal_model

import varigrad as vg
from varigrad import distributions as dist
from varigrad.compile.backends import compilation, inductor
from varigrad.compile.backends.c import codegen, library
from varigrad.compile.backends.c.codegen import RULES
from varigrad.compile.backends.worker import CompilerError
from varigrad.compile.step import compiled_step, flat_state, stages
from varigrad.compile.trace import traced_function, tracer

t = torch.tensor


def broken(*given, **options):
    raise ZeroDivisionError("integer modulo by zero")


def in_a_rule(patch):
    patch.setitem(RULES, "exp", broken)
    patch.setattr(inductor, "cxx_compiler", no_compiler)


def no_compiler():
    raise CompilerError("there is no C++ compiler (install g++)")


def in_c(patch):
    patch.setattr(codegen._Translation, "program", broken)
    patch.setattr(inductor, "cxx_compiler", no_compiler)


PLACES = {
    "recording": (
        lambda patch: patch.setattr(tracer, "decomposed", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "memory": (
        lambda patch: patch.setattr(flat_state.Bucket, "joined", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "taking over": (
        lambda patch: patch.setattr(flat_state.FlatState, "take", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "watching": (
        lambda patch: patch.setattr(compiled_step, "Guards", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "writing over": (
        lambda patch: patch.setattr(traced_function, "_overwrite", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "a rule": (in_a_rule, "C cannot be written: RuntimeError: aten.exp.default ("),
    "writing C": (in_c, "C cannot be written: ZeroDivisionError: integer modulo by zero"),
    "compiling": (
        lambda patch: patch.setattr(compilation, "CompilerProcess", broken),
        "the graph cannot be handed to the compiler: ZeroDivisionError: integer modulo by zero",
    ),
    "loading": (
        lambda patch: patch.setattr(library, "CLibrary", broken),
        "because ZeroDivisionError: integer modulo by zero",
    ),
    "the first call": (
        lambda patch: patch.setattr(library.CLibrary, "run", broken),
        "the graph fails where the program does not: ZeroDivisionError: integer modulo by zero",
    ),
}


def drifting():
    """A program that reads what cannot be watched."""
    holder = iter(range(10**6))

    def model(data):
        number = float(next(holder))
        z = vg.sample("z", dist.Normal(0.0, 1.0))
        vg.sample("x", dist.Normal(z, 1.0), obs=data[0] + number)

    return model


def a_mistake_refuses_the_step(place, tmp_path, monkeypatch):
    """One warning, with the reason; Python's numbers, as if nothing had been tried."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    make = lambda compile: vg.SVI(normal_model, normal_guide, vg.optim.Adam(lr=0.05), seed=0, compile=compile)  # noqa: E731
    with by_python():
        svi = make(True)
        expected = [svi.run(12, DATA).losses, svi.state()["bound"]]
    breaks, text = PLACES[place]
    breaks(monkeypatch)
    with heard() as said:
        svi = make("wait")
        found = [svi.run(12, DATA).losses, svi.state()["bound"]]
    assert len(said) == 1 and said[0].startswith("steps run eagerly. ") and text in said[0], said
    assert_close(found, expected, rtol=0, atol=0)
    assert text in svi.explain()


def the_quantity_that_differs_is_named():
    with by_graph(), heard() as said:
        svi = svi_of(drifting(), normal_guide)
        svi.run(10, DATA)
    assert len(said) == 1
    text = said[0]
    assert "the recorded step and the program do not agree: " in text
    assert "clock" not in text and "file" not in text
    assert " by graph and " in text and " by Python, and another number when Python runs the step again" in text
    assert "with arguments (float32[6])" in text and "Of all that is watched nothing has changed" in text


def every_quantity_has_a_name(target, entry, text):
    """A graph that is wrong in one number."""
    config = vg.ELBO(estimators={"z": vg.estimators.Score(vg.estimators.MovingAverage(0.9))})
    with by_graph(), heard() as said:
        svi = svi_of(normal_model, normal_guide, config)
        svi.run(4, DATA)
        recorded_step = specializations(svi)[0].step.traced
        real = recorded_step.run

        def wrong(count=1):
            real(count)
            tensor = recorded_step.targets[target].view(-1)
            tensor[entry] = not tensor[entry] if tensor.dtype == torch.bool else tensor[entry] + 7

        recorded_step.run, recorded_step._loose = wrong, {}
        (own,) = specializations(svi)
        own.progress = replace(own.progress, stage=stages.Stage.CHECKING, next_check=own.graph_steps)
        svi.run(2, DATA)
    assert len(said) == 1 and f"do not agree: {text}" in said[0], said
    assert "another number" not in said[0]
