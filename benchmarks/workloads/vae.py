"""A variational autoencoder 784-400-20 on batches of 256 binary images, pathwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, linear, softplus

from benchmarks.workload import Adam, Formula, Programs, Step, Workload

ADAM = Adam(lr=1e-3)
BATCH, PIXELS, HIDDEN, CODE = 256, 784, 400, 20


def images() -> Tensor:
    """Binary pictures with some structure: a step's time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(10, PIXELS, generator=generator)
    code = torch.randn(BATCH, 10, generator=generator)
    return (code @ basis > 1.0).float()


class Encoder(nn.Module):
    """Images to location and scale of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.loc, self.raw = nn.Linear(PIXELS, HIDDEN), nn.Linear(HIDDEN, CODE), nn.Linear(HIDDEN, CODE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.hidden(x).relu()
        return self.loc(h), softplus(self.raw(h))


class Decoder(nn.Module):
    """Codes to the logits of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.logits = nn.Linear(CODE, HIDDEN), nn.Linear(HIDDEN, PIXELS)

    def forward(self, z: Tensor) -> Tensor:
        return self.logits(self.hidden(z).relu())


def networks() -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    return Encoder(), Decoder()


def varigrad() -> Programs:
    import varigrad as vg
    from varigrad import distributions as dist

    encoder, decoder = networks()

    def model(x):
        vg.module("decoder", decoder)
        with vg.plate("batch", BATCH):
            z = vg.sample("z", dist.Normal(torch.zeros(CODE), 1.0).to_event(1))
            vg.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        vg.module("encoder", encoder)
        with vg.plate("batch", BATCH):
            vg.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return Programs(model, guide, (images(),))


def pyro() -> Programs:
    import pyro
    import pyro.distributions as dist

    encoder, decoder = networks()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("batch", BATCH):
            z = pyro.sample("z", dist.Normal(torch.zeros(CODE), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("batch", BATCH):
            pyro.sample("z", dist.Normal(*encoder(x)).to_event(1))

    return Programs(model, guide, (images(),))


def hand(seed: int) -> Step:
    encoder, decoder = networks()
    optimizer = ADAM.torch([*encoder.parameters(), *decoder.parameters()])
    x = images()
    torch.manual_seed(seed)

    def step() -> float:
        loc, scale = encoder(x)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        # log p(z) - log q(z) of the draw, not the divergence in closed form: the same estimator as the others.
        log_ratio = 0.5 * (noise.square() - z.square()).sum() + scale.log().sum()
        loss = binary_cross_entropy_with_logits(decoder(z), x, reduction="sum") - log_ratio
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def formula() -> Formula:
    x = images()

    def objective(p: Mapping[str, Tensor], _: Any) -> tuple[Tensor, tuple[Tensor, Any]]:
        def layer(name: str, given: Tensor) -> Tensor:
            return linear(given, p[f"{name}.weight"], p[f"{name}.bias"])

        hidden = layer("encoder.hidden", x).relu()
        scale = softplus(layer("encoder.raw", hidden))
        noise = torch.randn_like(scale)
        z = layer("encoder.loc", hidden) + scale * noise
        log_ratio = 0.5 * (noise.square() - z.square()).sum() + scale.log().sum()
        logits = layer("decoder.logits", layer("decoder.hidden", z).relu())
        loss = binary_cross_entropy_with_logits(logits, x, reduction="sum") - log_ratio
        return loss, (loss, ())

    return Formula(weights(), objective)


def weights() -> dict[str, Tensor]:
    """Those that training starts from."""
    encoder, decoder = networks()
    return dict(nn.ModuleDict({"encoder": encoder, "decoder": decoder}).state_dict())


WORKLOAD = Workload(
    "variational autoencoder 784-400-20, batch 256",
    "pathwise",
    ADAM,
    varigrad,
    pyro,
    formula,
    lambda: {"x": images().numpy(), **{name: value.numpy() for name, value in weights().items()}},
    target=5000.0,
    hand=hand,
    check_steps=40,
    at_most=1.5,
)
