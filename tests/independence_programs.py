"""Random compositions of torch's functions, and what changing one element of their argument changes: by numbers."""

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LANES, PLATE, EVENT = 2, 3, 4

Step = Callable[[list[Tensor], random.Random], Tensor]


def value(sizes: tuple[int, ...], seed: int) -> Tensor:
    """Numbers away from zero and from each other, `[*sizes]`."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(sizes, generator=generator, dtype=torch.float64) + 0.5
    return torch.where(torch.rand(sizes, generator=generator) < 0.5, numbers, -numbers)


def couples(function: Callable[[Tensor], Tensor], z: Tensor, axis: int, out: int) -> bool:
    """Whether an entry of the result along `out` follows another element of `z` along `axis` than its own."""
    for trial in range(3):
        base = z if trial == 0 else value(tuple(z.shape), 1000 + trial) * 0.7
        before = _called(function, base)
        for i in range(z.shape[axis]):
            other = base.clone()
            other.select(axis, i).copy_(value(tuple(z.select(axis, i).shape), 77 + 10 * trial + i))
            after = _called(function, other)
            if after.shape != before.shape:
                return True
            rest = [j for j in range(before.shape[out]) if j != i]
            rows = torch.tensor(rest)
            if not torch.allclose(
                after.index_select(out, rows).to(torch.complex128),
                before.index_select(out, rows).to(torch.complex128),
                rtol=1e-7, atol=1e-9, equal_nan=True,
            ):  # fmt: skip
                return True
    return False


def _called(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    torch.manual_seed(5)  # dropout
    return function(z.clone()).detach()


def _pick(pool: list[Tensor], rng: random.Random) -> Tensor:
    return pool[-1] if rng.random() < 0.7 else rng.choice(pool)


def random_dim(x: Tensor, rng: random.Random) -> int:
    return rng.randrange(-x.dim(), x.dim())


def on_one(function: Callable[[Tensor, random.Random], Tensor]) -> Step:
    """A step that reads one tensor of the pool."""
    return lambda pool, rng: function(_pick(pool, rng), rng)


def on_two(function: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """A step that reads two."""
    return lambda pool, rng: function(_pick(pool, rng), rng.choice(pool))


def _weights(*sizes: int) -> Tensor:
    return value(sizes, sum(sizes) + 10 * len(sizes))


def _linear(x: Tensor, rng: random.Random) -> Tensor:
    return F.linear(x, _weights(rng.choice((2, 3, 4)), x.shape[-1]), None)


def _linear_with_bias(x: Tensor, rng: random.Random) -> Tensor:
    out = rng.choice((2, 3, 4))
    return F.linear(x, _weights(out, x.shape[-1]), _weights(out))


def _module(module: nn.Module, x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    for p in module.parameters():
        p.data = torch.rand(p.shape, generator=generator, dtype=torch.float64) - 0.3
    return module.double()(x)


def _mlp(x: Tensor, rng: random.Random) -> Tensor:
    act = rng.choice(
        (nn.ReLU(), nn.Tanh(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.Softplus(), nn.LeakyReLU(), nn.Sigmoid())
    )
    hidden = rng.choice((3, 5))
    return _module(nn.Sequential(nn.Linear(x.shape[-1], hidden), act, nn.Linear(hidden, rng.choice((1, 3, 4)))), x)


def _conv(x: Tensor, rng: random.Random) -> Tensor:
    flat = x.reshape(-1, 1, x.shape[-1])
    y = _module(nn.Conv1d(1, 2, 3, padding=1), flat)
    return y.reshape(*x.shape[:-1], -1)


def _conv2d(x: Tensor, rng: random.Random) -> Tensor:
    flat = x.reshape(-1, 1, 1, x.shape[-1])
    y = F.max_pool2d(_module(nn.Conv2d(1, 2, (1, 3), padding=(0, 1)), flat).relu(), (1, 2))
    return y.flatten(1).reshape(*x.shape[:-1], -1)


def _deconv(x: Tensor, rng: random.Random) -> Tensor:
    flat = x.reshape(-1, x.shape[-1], 1)
    return _module(nn.ConvTranspose1d(x.shape[-1], 2, 3), flat).flatten(1).reshape(*x.shape[:-1], -1)


def _recurrent(kind: type[nn.RNNBase]) -> Callable[[Tensor, random.Random], Tensor]:
    def step(x: Tensor, rng: random.Random) -> Tensor:
        if x.dim() < 3 or rng.random() < 0.5:
            return _module(kind(1, 2, batch_first=True), x.reshape(-1, x.shape[-1], 1))[0][:, -1].reshape(
                *x.shape[:-1], 2
            )
        return _module(kind(x.shape[-1], 3, batch_first=rng.random() < 0.5), x.reshape(-1, *x.shape[-2:]))[0]

    return step


def _cell(x: Tensor, rng: random.Random) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    return _module(nn.GRUCell(x.shape[-1], 3), flat).reshape(*x.shape[:-1], 3)


def _embedding(x: Tensor, rng: random.Random) -> Tensor:
    return F.embedding((x > 0).long() + (x > 1).long(), _weights(3, 2)).sum(-1 if rng.random() < 0.5 else -2)


def _batched_einsum(x: Tensor, rng: random.Random) -> Tensor:
    return torch.einsum("...i,ij->...j", x, _weights(x.shape[-1], 3))


def _attention(x: Tensor, rng: random.Random) -> Tensor:
    q = x.unsqueeze(-1) * _weights(3)
    return F.scaled_dot_product_attention(q, q + 1, q).sum(-1)


def _batch_norm(train: bool) -> Callable[[Tensor, random.Random], Tensor]:
    def step(x: Tensor, rng: random.Random) -> Tensor:
        norm = nn.BatchNorm1d(x.shape[-1]).double()
        norm.train(train)
        return norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    return step


def _written_column(x: Tensor, rng: random.Random) -> Tensor:
    y = torch.zeros(*x.shape, 2, dtype=torch.float64)
    y[..., 0] = x
    y[..., 1] = x.exp()
    return y.sum(-1) if rng.random() < 0.5 else y[..., 1]


def _written_row(x: Tensor, rng: random.Random) -> Tensor:
    y = torch.ones(x.shape, dtype=torch.float64)
    i = rng.randrange(x.shape[0])
    y[i] = x[rng.randrange(x.shape[0])]
    return y


def _in_place(x: Tensor, rng: random.Random) -> Tensor:
    y = x.clone()
    part = y[rng.choice((slice(None), slice(0, 1), slice(1, None)))] if rng.random() < 0.5 else y[..., :1]
    part.mul_(rng.choice((2.0, 0.5)))
    part += rng.choice((x.sum(), x[..., :1], torch.ones((), dtype=torch.float64)))
    return y


def _stacked(x: Tensor, rng: random.Random) -> Tensor:
    return torch.stack([x, x.sin()], random_dim(x, rng)).sum(random_dim(x, rng))


def _log_prob(x: Tensor, rng: random.Random) -> Tensor:
    d = torch.distributions
    made = rng.choice(
        (
            lambda: d.Normal(x, 1.0).log_prob(_weights(x.shape[-1])),
            lambda: d.Independent(d.Normal(x, x.exp()), 1).log_prob(x.sin()),
            lambda: d.Categorical(logits=x).log_prob(torch.tensor(1)),
            lambda: d.Bernoulli(logits=x).log_prob((x > 0).double()),
            lambda: d.Gamma(x.exp(), 1.0).log_prob(x.exp()),
            lambda: d.MultivariateNormal(x, torch.eye(x.shape[-1], dtype=x.dtype)).log_prob(x.cos()),
            lambda: d.Dirichlet(x.exp()).log_prob(x.softmax(-1)),
            lambda: d.StudentT(3.0, x).log_prob(x.sin()),
        )
    )
    return made()


COMMON: dict[str, Step] = {
    "exp": on_one(lambda x, r: x.clamp(-3, 3).exp()),
    "tanh": on_one(lambda x, r: x.tanh()),
    "plus": on_one(lambda x, r: x + 1),
    "scaled": on_one(lambda x, r: x * _weights(x.shape[-1])),
    "sum_event": on_one(lambda x, r: x.sum(-1, keepdim=True)),
    "mean_event": on_one(lambda x, r: x - x.mean(-1, keepdim=True)),
    "softmax": on_one(lambda x, r: x.softmax(-1)),
    "log_softmax": on_one(lambda x, r: x.log_softmax(-1)),
    "linear": on_one(_linear),
    "linear_with_bias": on_one(_linear_with_bias),
    "mlp": on_one(_mlp),
    "layer_norm": on_one(lambda x, r: F.layer_norm(x, x.shape[-1:])),
    "conv": on_one(_conv),
    "conv2d": on_one(_conv2d),
    "deconv": on_one(_deconv),
    "gru": on_one(_recurrent(nn.GRU)),
    "lstm": on_one(_recurrent(nn.LSTM)),
    "rnn": on_one(_recurrent(nn.RNN)),
    "cell": on_one(_cell),
    "embedding": on_one(_embedding),
    "einsum": on_one(_batched_einsum),
    "log_prob": on_one(_log_prob),
    "eval_norm": on_one(_batch_norm(False)),
    "flat": on_one(lambda x, r: x.reshape(-1, x.shape[-1]).sin().reshape(x.shape)),
    "dropout": on_one(lambda x, r: F.dropout(x, 0.4)),
    "add": on_two(lambda x, y: x + y),
    "times": on_two(lambda x, y: x * y),
    "where": on_two(lambda x, y: torch.where(x > 0, x, y)),
    "cat_event": on_two(lambda x, y: torch.cat([x, y], -1)),
    "column": on_one(_written_column),
    "cumsum": on_one(lambda x, r: x.cumsum(-1)),
    "norm": on_one(lambda x, r: x / x.norm(dim=-1, keepdim=True)),
    "logsumexp": on_one(lambda x, r: x.logsumexp(-1, keepdim=True)),
    "chunk": on_one(lambda x, r: torch.cat([x, x], -1).chunk(2, -1)[1]),
    "attention": on_one(lambda x, r: _attention(x, r)),
}
"""What models are made of, applied as they should be: to the rightmost dimension."""

WILD: dict[str, Step] = {
    "sum": on_one(lambda x, r: x.sum(random_dim(x, r), keepdim=r.random() < 0.5)),
    "mean": on_one(lambda x, r: x.mean(random_dim(x, r))),
    "amax": on_one(lambda x, r: x.amax(random_dim(x, r), keepdim=True)),
    "var": on_one(lambda x, r: x.var(random_dim(x, r), keepdim=True)),
    "cumsum": on_one(lambda x, r: x.cumsum(random_dim(x, r))),
    "softmax": on_one(lambda x, r: x.softmax(random_dim(x, r))),
    "sort": on_one(lambda x, r: x.sort(random_dim(x, r)).values),
    "flip": on_one(lambda x, r: x.flip(random_dim(x, r))),
    "roll": on_one(lambda x, r: x.roll(1, random_dim(x, r))),
    "transpose": on_one(lambda x, r: x.transpose(random_dim(x, r), random_dim(x, r))),
    "permute": on_one(lambda x, r: x.permute(r.sample(range(x.dim()), x.dim()))),
    "unsqueeze": on_one(lambda x, r: x.unsqueeze(random_dim(x, r))),
    "squeeze": on_one(lambda x, r: x.squeeze()),
    "select": on_one(lambda x, r: x.select(random_dim(x, r), 0)),
    "slice": on_one(lambda x, r: x.narrow(random_dim(x, r), 0, 1)),
    "prefix": on_one(lambda x, r: x[1:]),
    "flatten": on_one(lambda x, r: x.flatten()),
    "flatten2": on_one(lambda x, r: x.flatten(0, 1)),
    "unflatten": on_one(lambda x, r: x.reshape(x.shape[0], -1)),
    "fold": on_one(lambda x, r: x.reshape(-1, x.shape[-1])),
    "reshape3": on_one(lambda x, r: x.reshape(*r.sample((LANES, PLATE, EVENT), 3))),
    "reshape": on_one(lambda x, r: x.reshape(*r.sample((LANES, PLATE, EVENT, 1, LANES * PLATE, PLATE * EVENT), 2), -1)),
    "expand": on_one(lambda x, r: x.expand(2, *x.shape)),
    "repeat": on_one(lambda x, r: x.repeat(*[r.choice((1, 2)) for _ in x.shape])),
    "matmul": on_two(lambda x, y: x @ y),
    "matmul_t": on_two(lambda x, y: x @ y.mT),
    "mv": on_one(lambda x, r: x @ _weights(x.shape[-1])),
    "left": on_one(lambda x, r: _weights(3, x.shape[-2]) @ x),
    "einsum": on_one(lambda x, r: torch.einsum("...ij,jk->...ik", x, _weights(x.shape[-1], 3))),
    "einsum2": on_one(lambda x, r: torch.einsum("...ij->...ji", x)),
    "outer": on_one(lambda x, r: x.unsqueeze(-1) * x.unsqueeze(-2)),
    "einsum3": on_two(lambda x, y: torch.einsum("lni,lmi->lnm", x, y)),
    "einsum4": on_two(lambda x, y: torch.einsum("lni,lni->ln", x, y)),
    "diagonal": on_one(lambda x, r: x.diagonal(dim1=-1, dim2=-2)),
    "diag_embed": on_one(lambda x, r: x.diag_embed()),
    "tril": on_one(lambda x, r: x.tril()),
    "cat": on_two(lambda x, y: torch.cat([x, y], 0)),
    "stack": on_two(lambda x, y: torch.stack([x, y], -2)),
    "stacked": on_one(_stacked),
    "index": on_one(lambda x, r: x[torch.tensor([0, 1, 0])]),
    "index_last": on_one(lambda x, r: x[..., torch.tensor([1, 0, 0])]),
    "index_middle": on_one(lambda x, r: x[:, torch.tensor([0, 1])]),
    "index_two": on_one(lambda x, r: x[torch.tensor([0, 1]), ..., torch.tensor([1, 0])]),
    "lookup": on_one(lambda x, r: _weights(3, 4)[(x > 0).long()]),
    "lookup2": on_one(lambda x, r: _weights(3, 4)[(x > 0).long(), (x > 1).long()]),
    "lookup3": on_one(lambda x, r: _weights(3, 2, 4)[:, (x > 0).long()]),
    "mask": on_one(lambda x, r: torch.where(x > 0, x, 0.1)),
    "self_lookup": on_one(lambda x, r: x[(x[:, 0] > 0).long()] if x.dim() < 3 else x[(x[:, 0, 0] > 0).long()]),
    "gather": on_one(lambda x, r: x.gather(random_dim(x, r), (x > 0).long())),
    "scatter": on_one(lambda x, r: x.scatter(random_dim(x, r), (x > 0).long(), x.exp())),
    "scatter_add": on_one(lambda x, r: torch.zeros_like(x).scatter_add(random_dim(x, r), (x > 0).long(), x)),
    "index_select": on_one(lambda x, r: x.index_select(random_dim(x, r), torch.tensor([1, 0]))),
    "index_add": on_one(lambda x, r: x.index_add(0, torch.tensor([1, 0]), x[:2])),
    "index_put": on_one(lambda x, r: x.clone().index_put_((torch.tensor([0, 1]),), x[1:2])),
    "masked": on_one(lambda x, r: x.masked_fill(x > 1, 0.3)),
    "mask_put": on_one(lambda x, r: _put(x, r)),
    "row": on_one(_written_row),
    "in_place": on_one(_in_place),
    "pad": on_one(lambda x, r: F.pad(x, (1, 0))),
    "pad2": on_one(lambda x, r: F.pad(x, (0, 0, 1, 1))),
    "unfold": on_one(lambda x, r: x.unfold(random_dim(x, r), 2, 1)),
    "batch_norm": on_one(_batch_norm(True)),
    "batch_norm3": on_one(lambda x, r: F.batch_norm(x, None, None, training=True)),
    "group_norm": on_one(lambda x, r: F.group_norm(x, 1)),
    "instance_norm": on_one(lambda x, r: F.instance_norm(x)),
    "layer_norm2": on_one(lambda x, r: F.layer_norm(x, x.shape[-2:])),
    "conv_channels": on_one(lambda x, r: F.conv1d(x, _weights(2, x.shape[1], 1))),
    "unbatched_conv": on_one(lambda x, r: F.conv1d(x[0] if x.dim() == 3 else x, _weights(2, x.shape[-2], 1))),
    "attention": on_one(lambda x, r: F.scaled_dot_product_attention(x, x, x)),
    "cdist": on_two(lambda x, y: torch.cdist(x, y)),
    "rnn_time": on_one(lambda x, r: _module(nn.GRU(x.shape[-1], 2), x)[0]),
    "lstm_time": on_one(lambda x, r: _module(nn.LSTM(x.shape[-1], 2), x)[0]),
    "pool": on_one(lambda x, r: F.avg_pool1d(x, 2)),
    "upsample": on_one(lambda x, r: F.interpolate(x, scale_factor=2)),
    "glu": on_one(lambda x, r: F.glu(x, random_dim(x, r))),
    "fft": on_one(lambda x, r: torch.fft.rfft(x, dim=random_dim(x, r)).abs()),
    "cholesky": on_one(lambda x, r: torch.linalg.cholesky(x @ x.mT + 2 * torch.eye(x.shape[-2], dtype=x.dtype))),
    "solve": on_one(lambda x, r: torch.linalg.solve(x @ x.mT + torch.eye(x.shape[-2], dtype=x.dtype), x)),
    "logdet": on_one(lambda x, r: torch.logdet(x @ x.mT + torch.eye(x.shape[-2], dtype=x.dtype))),
    "topk": on_one(lambda x, r: x.topk(2, random_dim(x, r)).values),
    "median": on_one(lambda x, r: x.median(random_dim(x, r)).values),
    "searchsorted": on_one(lambda x, r: torch.searchsorted(x.sort(-1).values.contiguous(), x.contiguous()).double()),
    "bucketize": on_one(lambda x, r: torch.bucketize(x, torch.tensor([-0.5, 0.5], dtype=x.dtype)).double()),
    "vmap": on_one(lambda x, r: torch.vmap(lambda a: a.softmax(-1), in_dims=r.choice((0, 1)))(x)),
    "vmap_sum": on_one(
        lambda x, r: torch.vmap(lambda a: a - a.sum(), in_dims=r.choice((0, 1)), out_dims=r.choice((0, 1)))(x)
    ),
    "movedim": on_one(lambda x, r: x.movedim(0, -1)),
    "unbind": on_one(lambda x, r: torch.stack(x.unbind(0)[::-1])),
    "split": on_one(lambda x, r: torch.cat(x.split(1, random_dim(x, r)), 0)),
    "as_strided": on_one(lambda x, r: x.contiguous().as_strided(x.shape, list(reversed(x.contiguous().stride())))),
    "data": on_one(lambda x, r: x.exp().data),
    "item": on_one(lambda x, r: x * 2 if r.random() < 0.5 else x - 1),
    "complex": on_one(lambda x, r: torch.view_as_real(torch.complex(x, x.sin())).sum(-1)),
    "bilinear": on_one(lambda x, r: F.bilinear(x, x.sin(), _weights(2, x.shape[-1], x.shape[-1]))),
    "nll": on_one(
        lambda x, r: F.cross_entropy(
            x.flatten(0, -2), torch.zeros(x[..., 0].numel(), dtype=torch.long), reduction=r.choice(("none", "mean"))
        )
    ),
    "mse": on_two(lambda x, y: F.mse_loss(x, y, reduction="none")),
    "repeat_interleave": on_one(lambda x, r: x.repeat_interleave(2, random_dim(x, r))),
    "trilerp": on_one(lambda x, r: x.T if x.dim() == 2 else x.mT),
    "sum_all": on_one(lambda x, r: x.sum() + x),
    "dot": on_one(lambda x, r: x.flatten() @ x.flatten() + x),
    "baddbmm": on_one(lambda x, r: torch.baddbmm(x @ x.mT, x, x.mT)),
    "addbmm": on_one(lambda x, r: torch.addbmm(x[0] @ x[0].mT, x, x.mT)),
}
"""Anything, along any dimension: most of it combines or moves elements."""


def _put(x: Tensor, rng: random.Random) -> Tensor:
    y = x.clone()
    mask = rng.choice((x > 0, x[..., 0] > 0, x.flatten(1)[:, 0] > 0))
    y[mask] = 0.25
    return y


def random_program(seed: int, wild: float) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """A composition of one to five steps, and their names; steps that a shape does not allow are left out.

    Args:
        wild: how often a step is from `WILD`.
    """
    rng = random.Random(seed)
    names = [
        ("WILD", rng.choice(sorted(WILD))) if rng.random() < wild else ("COMMON", rng.choice(sorted(COMMON)))
        for _ in range(rng.randint(1, 5))
    ]
    used: list[str] = []

    def program(z: Tensor) -> Tensor:
        used.clear()
        pool = [z]
        for i, (kind, name) in enumerate(names):
            step = (WILD if kind == "WILD" else COMMON)[name]
            try:
                y = step(pool, random.Random(seed * 31 + i))
            except (RuntimeError, IndexError, ValueError, TypeError):
                continue
            if y.is_complex() or not y.is_floating_point() or y.numel() > 4000 or y.numel() == 0:
                continue
            used.append(name)
            pool.append(y)
        return pool[-1]

    return program, used
