"""A step on a GPU: ours, eager and captured, beside hand-written torch. `python -m benchmarks.gpu [--device cuda]`

The variational autoencoder of `workloads/vae.py`, at several batch sizes. Microseconds a step, best of five blocks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

import varigrad as vg
from benchmarks.workloads.vae import ADAM, CODE, images, networks
from varigrad import distributions as dist

Block = Callable[[int], object]
"""Takes so many steps, and has their losses at the end."""


def ours(x: Tensor, compile: bool) -> tuple[Block, vg.SVI]:
    """A run's steps."""
    encoder, decoder = (n.to(x.device) for n in networks())
    prior = torch.zeros(CODE, device=x.device)

    def model(x: Tensor) -> None:
        vg.module("decoder", decoder)
        with vg.plate("batch", len(x)):
            z = vg.sample("z", dist.Normal(prior, 1.0).to_event(1))
            vg.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        vg.module("encoder", encoder)
        with vg.plate("batch", len(x)):
            vg.sample("z", dist.Normal(*encoder(x)).to_event(1))

    svi = vg.SVI(model, guide, ADAM.varigrad(), seed=0, compile="wait" if compile else False)
    return lambda steps: svi.run(steps, x).losses, svi


def by_hand(x: Tensor) -> Block:
    """The same in plain torch, losses read at the end."""
    encoder, decoder = (n.to(x.device) for n in networks())
    optimizer = ADAM.torch([*encoder.parameters(), *decoder.parameters()])

    def block(steps: int) -> object:
        losses = []
        for _ in range(steps):
            loc, scale = encoder(x)
            z = loc + scale * torch.randn_like(loc)
            likelihood = binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            densities = (z.square() - ((z - loc) / scale).square()).sum() / 2 - scale.log().sum()
            loss = likelihood + densities
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses).tolist()

    return block


def microseconds(block: Block, steps: int, blocks: int = 5) -> float:
    """A step's time, by the wall clock: a block ends when its losses are there."""
    block(max(steps // 4, 10))
    times = []
    for _ in range(blocks):
        start = time.perf_counter()
        block(steps)
        times.append((time.perf_counter() - start) / steps)
    return 1e6 * min(times)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 4096])
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no GPU")
        return 0
    for size in options.batches:
        x = images().repeat(-(-size // len(images())), 1)[:size].to(options.device)
        eager, captured = ours(x, False)[0], ours(x, True)
        rows = {"by hand": by_hand(x), "varigrad": eager, "varigrad, captured": captured[0]}
        for name, block in rows.items():
            print(f"batch {size:6d}  {name:20s} {microseconds(block, options.steps):10.1f} us a step", flush=True)
        print(captured[1].explain())
    return 0


if __name__ == "__main__":
    sys.exit(main())
