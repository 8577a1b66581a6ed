"""The discrete VAE of two benchmarks: coins for each image, a decoder of them, an encoder that guesses them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import varigrad as vg
from varigrad import distributions as dist
from varigrad.estimators import Estimator

Choice = Callable[[Tensor], Estimator]
"""The estimator, given what the encoder sees."""


class CoinVAE(nn.Module):
    """The parameters of both sides; `mean`, `[pixels]`, is taken off what the encoder sees."""

    def __init__(
        self,
        coins: int,
        encoder: nn.Module,
        decoder: nn.Module,
        mean: Tensor | None = None,
        choice: Choice | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.choice = encoder, decoder, choice
        self.prior = nn.Parameter(torch.zeros(coins))
        self.register_buffer("mean", mean)

    def model(self, images: Tensor) -> None:
        with vg.plate("images", len(images)):
            z = vg.sample("z", dist.Bernoulli(logits=self.prior).to_event(1))
            vg.sample("x", dist.Bernoulli(logits=self.decoder(2 * z - 1)).to_event(1), obs=images)

    def guide(self, images: Tensor) -> None:
        with vg.plate("images", len(images)):
            seen = images if self.mean is None else images - self.mean
            estimator = None if self.choice is None else self.choice(seen)
            vg.sample("z", dist.Bernoulli(logits=self.encoder(seen)).to_event(1), estimator=estimator)
