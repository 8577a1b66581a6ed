"""Enumeration of a model's sites under Pyro's names: programs of the kinds of Pyro's documentation, by brute force."""

import itertools
from collections import Counter

import pytest
import torch
from tests.compat.programs import t
from torch import distributions as td

import varigrad.compat.pyro as pyro
import varigrad.compat.pyro.distributions as dist
from varigrad.compat.pyro import poutine
from varigrad.compat.pyro.infer import (
    SVI,
    JitTraceEnum_ELBO,
    TraceEnum_ELBO,
    TraceEnumSample_ELBO,
    TraceTMC_ELBO,
    config_enumerate,
    infer_discrete,
)
from varigrad.compat.pyro.infer.enum import iter_discrete_traces
from varigrad.compat.pyro.ops.indexing import Vindex
from varigrad.errors import SiteError, VarigradError
from varigrad.testing import enumerated_runs

parallel, sequential = {"enumerate": "parallel"}, {"enumerate": "sequential"}


def no_guide(*args, **kwargs):
    """A guide without sites."""


def joint(model, values, *args):
    """The log-density of a model at values of all of its latent sites."""
    return poutine.trace(poutine.condition(model, data=values)).get_trace(*args).log_prob_sum()


def table(model, sites, *args):
    """The log-densities of a model at all joint values of discrete sites without plates, `{values: density}`."""
    return {
        values: joint(model, {name: t(float(v)) for name, v in zip(sites, values, strict=True)}, *args)
        for values in itertools.product(*sites.values())
    }


def check(model, sites, *args, **options):
    """Loss, marginals, most probable values and draws of a model without guide are those of its table."""
    found = table(model, sites, *args)
    total = torch.stack(list(found.values())).logsumexp(0)
    objective = TraceEnum_ELBO(**options)
    assert objective.loss(model, no_guide, *args) == pytest.approx(-total.item(), rel=1e-9)
    marginals = objective.compute_marginals(model, no_guide, *args)
    assert set(marginals) == set(sites)
    for i, (name, values) in enumerate(sites.items()):
        for value in values:
            exact = torch.stack([d for vs, d in found.items() if vs[i] == value]).logsumexp(0) - total
            assert torch.allclose(marginals[name].log_prob(t(float(value))).exp(), exact.exp())
    best = max(found, key=found.get)
    trace = poutine.trace(infer_discrete(model, temperature=0, first_available_dim=-3)).get_trace(*args)
    assert tuple(float(trace.nodes[name]["value"]) for name in sites) == best
    return found, total
