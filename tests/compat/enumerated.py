"""All joint values of a program's marked sites, one by one: what enumeration is held to."""

import itertools

import torch

from varigrad.compat.pyro import poutine


def joint_values(model, *args):
    """Every joint value of the marked sites of a model that are not observed: `{site: value}`."""
    sites = {
        name: node["fn"]
        for name, node in poutine.trace(model).get_trace(*args).nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and node["infer"].get("enumerate")
    }
    supports = []
    for fn in sites.values():
        choices = fn.enumerate_support(expand=False)
        choices = choices.reshape(len(choices), *fn.event_shape)
        elements = itertools.product(choices, repeat=fn.batch_shape.numel())
        supports.append([torch.stack(e).reshape(fn.batch_shape + fn.event_shape) for e in elements])
    for values in itertools.product(*supports):
        yield dict(zip(sites, values, strict=True))


def densities(model, *args):
    """The log-density of a model at each of them: a list of values, and `[values]`."""
    values = list(joint_values(model, *args))
    runs = [poutine.trace(poutine.condition(model, data=v)).get_trace(*args).log_prob_sum() for v in values]
    return values, torch.stack(runs)


def probabilities(model, site, value, *args):
    """The posterior probability that a site has a value, in each element of its plates."""
    values, logs = densities(model, *args)
    weights = (logs - logs.logsumexp(0)).exp()
    same = torch.stack([(v[site] == value).to(weights) for v in values])
    return (weights.reshape(-1, *(1,) * (same.dim() - 1)) * same).sum(0)
