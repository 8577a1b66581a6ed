"""Run a program, change it, and hold its gradient to the exact one."""

import warnings
from dataclasses import replace

import torch
from graph_harness import Uncompiled, assert_close, by_graph, by_python

import varigrad as vg
from changing.programs import FAMILIES, LARGEST, Program
from varigrad.errors import SiteError, VarigradError
from varigrad.gradients.exact import draws_of
from varigrad.gradients.outcomes import NotEnumerable
from varigrad.testing import exact_gradient, expected_gradient, largest_difference

TOLERANCE = 1e-9
"""In double precision: sums of some hundred paths, each of some ten terms of order ten, round by less than 1e-12."""
FINE = ("exact", "refused", "too large")


def eagerly(spec):
    """One of `FINE`, or a sentence about what is wrong."""
    program = Program(spec)

    def run():
        bound = program.bound()
        for _ in range(spec.steps):
            bound(*program.gate.args())
        program.gate.open(bound)
        for _ in range(0 if program.told else 10):
            bound(*program.gate.args())
        return judged(bound, program)

    return _tried(run)


def by_steps(spec, kind=Uncompiled):
    """The same of steps that are recorded (and compiled, with the `kind` that does that), which have to be Python's."""
    graph, python = Program(spec), Program(spec)

    def run():
        svis = [_svi(program) for program in (graph, python)]

        def steps(count, alike=True):
            for _ in range(count):
                with by_graph(2, kind):
                    svis[0].step(*graph.gate.args())
                with by_python():
                    svis[1].step(*python.gate.args())
                if alike:
                    assert_close(*(dict(svi.bound.named_parameters()) for svi in svis))

        steps(spec.steps + 3)
        for program, svi in zip((graph, python), svis, strict=True):
            program.gate.open(svi.bound)
        # What a graph is watched for may be noticed at once by the one, and by the other at the next look.
        steps(1 if graph.told else 10, alike=graph.told)
        if not graph.told:
            svis[1].load_state(svis[0].state())
            steps(1)
        return judged(svis[0].bound, graph)

    return _tried(run)


def _svi(program):
    config = vg.ELBO(FAMILIES[program.spec.sites[0].family][1], vectorize=program.spec.vectorize)
    optim = vg.optim.SGD(lr=0.01)
    svi = vg.SVI(program.model, program.guide, optim, config, seed=0, compile=True)
    program.gate.shut(svi.bound)
    return svi


def _tried(run):
    torch.manual_seed(0)
    with warnings.catch_warnings(action="ignore"):
        try:
            return run()
        except AssertionError as error:
            return f"steps by graph are not Python's: {error}"
        except NotEnumerable:
            return "too large"
        except VarigradError as error:
            # What an estimator has to do by name where there is cross-element dependence.
            refused = isinstance(error, SiteError) and " cannot serve " in str(error)
            return "refused" if refused else f"{type(error).__name__}: {error}"


def judged(bound, program):
    """Whether the gradient, as it is now, is the exact one on average."""
    args = program.gate.args()
    if draws_of(bound, *args) > 3 * LARGEST:
        return "too large"
    mean = expected_gradient(bound, *args, limit=3 * LARGEST).mean
    error = largest_difference(mean, exact_gradient(bound, *args)[1])
    return "exact" if error <= TOLERANCE else f"the gradient is off by {error:.3g}"


def smallest(spec, verdict):
    """A simpler program that is wrong in the same way: while something can be left out, it is."""
    kind = verdict(spec)[:20]
    simpler = True
    while simpler:
        simpler = next((s for s in _simpler(spec) if verdict(s)[:20] == kind), None)
        spec = simpler or spec
    return spec


def _simpler(spec):
    sites = spec.sites
    last = len(sites) - 1
    if last > spec.source and spec.target[1] != last:
        yield replace(spec, sites=sites[:-1])
    for i, site in enumerate(sites):
        plain = {"guide_parent": None, "model_parent": None, "categorical": False, "family": "score"}
        particles = FAMILIES[site.family][1]
        for name, value in plain.items():
            if getattr(site, name) != value and not (name == "family" and particles > 1):
                yield replace(spec, sites=(*sites[:i], replace(site, **{name: value}), *sites[i + 1 :]))
        if site.place == "nm":
            yield replace(spec, sites=(*sites[:i], replace(site, place="n"), *sites[i + 1 :]))
    for name, value in {"steps": 1, "size": 2, "vectorize": None, "operation": "sum()"}.items():
        if getattr(spec, name) != value and not (spec.gate == "last layer" and name in ("size", "operation")):
            yield replace(spec, **{name: value})
