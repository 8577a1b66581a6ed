"""Mixing of a plate's elements is found whatever the first draws happen to be."""

import torch

import varigrad as vg
from laws.base import hold, law, seeded, t
from varigrad import distributions as dist
from varigrad.estimators import (
    DisARM,
    LeaveOneOut,
    Score,
)


def _mixing(size, read, start, estimator):
    def guide():
        with vg.plate("n", size):
            vg.sample("z", dist.Bernoulli(logits=vg.param("t", lambda: t(start).expand(size))), estimator=estimator)

    def model():
        with vg.plate("n", size):
            z = vg.sample("z", dist.Bernoulli(t(0.4)).expand((size,)))
            weights = torch.arange(1, size + 1)
            vg.sample("x", dist.Normal(read(z) * weights, t(1.0)), obs=t(0.3).expand(size))

    return model, guide


READS = {
    "flip": lambda z: z.flip(0),
    "roll": lambda z: z.roll(2, 0),
    "sum": lambda z: z.sum(),
    "product": lambda z: z.prod(),
    "any": lambda z: (z > 0).any(),
}


def _mixing_law(read):
    def found():
        for size, start in ((2, 0.7), (3, -0.4), (4, 0.1), (4, 6.0)):
            if (size, read) == (2, "roll"):
                continue  # rolls all the way round
            model, guide = _mixing(size, READS[read], start, Score())
            for seed in range(8):
                bound = seeded(vg.ELBO(), model, guide, seed)
                assert bound.plan()["z"].cross_element == ("n",), (size, start, seed)
        for seed in range(12):
            torch.manual_seed(seed)
            for estimator in (LeaveOneOut(2), DisARM()):
                hold(*_mixing(2 if read != "roll" else 3, READS[read], 2.0, estimator), steps=0)

    return found


for _read in READS:
    law(_mixing_law(_read), f"mixing by {_read} is found")
