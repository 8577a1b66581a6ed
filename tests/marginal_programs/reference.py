"""The bound of a specification by brute force: the model is run with every joint value of every element of every site
that is summed out, as often as a plate's minibatch stands for. No objective, term or elimination is used.
"""

import math
from itertools import product

import torch

from marginal_programs.programs import F64, Programs, numbers
from marginal_programs.specs import PLACES, VALUES
from varigrad.gradients.outcomes import Outcomes
from varigrad.language.messages import Factor, Param, Sample, evolve
from varigrad.language.runtime import run

SHIFT = 0.4
"""How far the noise of a normal site is from one particle to the next."""


class HeldNormals(Outcomes):
    """Walks through the outcomes of discrete draws; normal draws have known noise, minibatches are the first elements.

    Args:
        spec: the specification that the noise follows from.
        dims: number of plate dimensions of the programs.
        path: the options to take.
    """

    def __init__(self, spec, dims, path=()):
        super().__init__(path)
        self.spec, self.dims = spec, dims

    def draw(self, distribution, *, reparameterised=False, lanes=None):
        if not reparameterised:
            return super().draw(distribution, reparameterised=reparameterised, lanes=lanes)
        held = noise(self.spec, self.site)
        if self.spec.particles > 1:
            held = held + SHIFT * torch.arange(self.spec.particles, dtype=F64).reshape(-1, *(1,) * self.dims)
        base = getattr(distribution, "base_dist", distribution)
        return base.loc + base.scale * held

    def subset(self, size, count):
        return torch.arange(count)


def noise(spec, name):
    """The noise of a normal site of the guide, with its batch shape."""
    return numbers(spec, f"{name} noise", spec.shape(spec.by_name[name].place))


def paths(spec, dims):
    """A source for every outcome of an estimator's discrete draws."""
    path = ()
    while True:
        source = HeldNormals(spec, dims, path)
        yield source
        taken = list(source.taken)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return
        path = (*(option for option, _ in taken[:-1]), taken[-1][0] + 1)


def bound_by_brute_force(spec, parameters):
    """The bound, averaged over particles and over the outcomes of the guide's discrete sites.

    Args:
        spec: the specification.
        parameters: by name; the result is differentiable by them.
    """
    programs = Programs(spec, copied=True)
    discrete = [site for site in spec.sites if site.name.startswith("d")]
    totals = []
    for particle in range(spec.particles):
        for outcome in product(*[_every(spec, site.name, site.family) for site in discrete]):
            given = {site.name: value for site, value in zip(discrete, outcome, strict=True)}
            drawn = _guide(spec, programs, parameters, given, particle)
            chance = [_log_prob(m).sum() / _copies(spec, m.name) for n, m in drawn.items() if n in given]
            log_q = sum(_log_prob(m).sum() for m in drawn.values())
            values = {name: message.value for name, message in drawn.items()}
            bound = spec.scale * (_model(spec, programs, parameters, values) - log_q)
            totals.append(torch.stack(chance).sum().exp() * bound if chance else bound)
    return torch.stack(totals).sum() / spec.particles


def _guide(spec, programs, parameters, given, particle):
    """The messages of the guide's sites, in a run with these values of its discrete sites."""
    found = {}

    def handler(message, forward):
        if isinstance(message, Param):
            return forward(evolve(message, value=parameters[message.name]))
        if isinstance(message, Sample):
            name = message.name
            if name in given:
                value = given[name]
            else:
                held = _copied(spec, name, noise(spec, name) + SHIFT * particle)
                value = message.distribution.loc + message.distribution.scale * held
            message = found[name] = evolve(message, value=value)
        return forward(message)

    run(programs.guide, (handler,), (), {})
    return found


def _model(spec, programs, parameters, values):
    """The log-density of the model, summed over every joint value of what is summed out."""
    summed = [(s.name, s.family) for s in spec.sites if s.name.startswith("k")]
    summed += [(f"{s.name}_unobserved", s.family) for s in spec.sites if s.missing]
    totals = []
    for joint in product(*[_every(spec, name, family, copied=True) for name, family in summed]):
        choice = {name: value for (name, _), value in zip(summed, joint, strict=True)}
        parts = []

        def handler(message, forward, parts=parts, choice=choice):
            if isinstance(message, Param):
                return forward(evolve(message, value=parameters[message.name]))
            if isinstance(message, Sample) and message.value is None:
                message = evolve(message, value={**values, **choice}[message.name])
            if isinstance(message, (Sample, Factor)):
                parts.append(_log_prob(message, len(choice) and message.name in choice).sum())
            return forward(message)

        run(programs.model, (handler,), (), {})
        totals.append(torch.stack(parts).sum())
    return torch.stack(totals).logsumexp(0)


def _log_prob(message, summed=False):
    """The log-density in every element of the plates around a statement."""
    sizes = {p.dim: p.size for p in message.plates}
    shape = [sizes.get(d, 1) for d in range(min(sizes, default=0), 0)]
    value = message.log_factor if isinstance(message, Factor) else message.distribution.log_prob(message.value)
    assert value.dim() <= len(shape) or set(value.shape[: value.dim() - len(shape)]) == {1}, message.name
    value = value.reshape(value.shape[max(0, value.dim() - len(shape)) :]).expand(shape)
    if message.mask is None:
        return value
    return torch.where(message.mask, value, -math.log(_count(message.distribution)) if summed else 0.0)


def _count(distribution):
    return len(distribution.enumerate_support(expand=False))


def _every(spec, name, family, copied=False):
    """Every joint value of the elements of a site; in plates with copies, of the copies too, or the same in them."""
    site = spec.by_name[name.removesuffix("_unobserved")]
    shape = [n * c if copied else n for n, c in _shape(spec, site.place)]
    count = math.prod(shape)
    if family == "one_hot":
        values = torch.eye(VALUES[family], dtype=F64)
    else:
        values = torch.arange(VALUES[family], dtype=torch.int64 if family in ("categorical", "two") else F64)
    for indices in product(range(VALUES[family]), repeat=count):
        value = values[torch.tensor(indices, dtype=torch.int64)].reshape((*shape, *values.shape[1:]))
        yield value if copied else _copied(spec, name, value)


def _shape(spec, place):
    """Size in use and number of copies along each batch dimension of a place."""
    inside = PLACES[place]
    plates = ("b", "a") if "b" in inside else inside
    return [(spec.sizes[p], spec.copies[p]) if p in inside else (1, 1) for p in plates]


def _copied(spec, name, value):
    """A value of the elements in use, for as many copies of them as they stand for."""
    copies = [c for _, c in _shape(spec, spec.by_name[name].place)]
    return value.repeat(*copies, *(1,) * (value.dim() - len(copies))) if copies else value


def _copies(spec, name):
    return math.prod(c for _, c in _shape(spec, spec.by_name[name].place))
