"""Programs at module level, so that they pickle and a second process can import them."""

import torch

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import MovingAverage, NeuralBaseline, Score

DATA = torch.tensor([0.3, -1.0, 2.0, 4.0, 1.5, 0.0])
positive = dist.constraints.positive


def normal_model(data=DATA):
    """Conjugate: the posterior of z is Normal(sum(x) / (n + 1), 1 / sqrt(n + 1))."""
    z = vg.sample("z", dist.Normal(0.0, 1.0))
    with vg.plate("data", len(data)):
        vg.sample("x", dist.Normal(z, 1.0), obs=data)


def normal_guide(data=DATA):
    vg.sample("z", dist.Normal(vg.param("loc", 0.5), vg.param("scale", 0.7, positive)))


def mixed_model(data=DATA):
    """A global continuous choice, a discrete one for every element of a subsampled plate."""
    shift = vg.sample("shift", dist.Normal(0.0, 2.0))
    with vg.plate("data", len(data), subsample_size=3):
        x = vg.subsample(data)
        group = vg.sample("group", dist.Bernoulli(0.4))
        vg.sample("x", dist.Normal(shift + 2 * group, 1.0), obs=x)


class MixedGuide(torch.nn.Module):
    """Moving-average and neural baseline, so that there is estimator state to carry."""

    def __init__(self):
        super().__init__()
        self.net, baseline = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
        self.baseline = (baseline,)  # in a tuple: it belongs to the estimator
        for i, parameter in enumerate([*self.net.parameters(), *baseline.parameters()]):
            torch.nn.init.constant_(parameter, 0.1 * i - 0.2)

    def forward(self, data=DATA):
        vg.sample("shift", dist.Normal(vg.param("m", 0.0), vg.param("s", 1.0, positive)))
        with vg.plate("data", len(data), subsample_size=3):
            x = vg.subsample(data)
            estimator = Score(MovingAverage(0.9) + NeuralBaseline(self.baseline[0], x.unsqueeze(-1)))
            vg.sample("group", dist.Bernoulli(logits=self.net(x.unsqueeze(-1)).squeeze(-1)), estimator=estimator)


def mixed_svi(seed=0, **options):
    """Reproducible from the seed alone."""
    return vg.SVI(mixed_model, MixedGuide(), vg.optim.Adam(lr=0.02), vg.ELBO(**options), seed=seed)


def numbers(svi):
    """Everything a step has changed, as one tensor."""
    flat = [p.detach().reshape(-1) for _, p in sorted(svi.bound.named_parameters())]
    return torch.cat([*flat, torch.tensor([svi.metrics.loss])])


if __name__ == "__main__":
    svi = mixed_svi(seed=7)
    svi.run(20, progress=False)
    print(numbers(svi).numpy().tobytes().hex())
