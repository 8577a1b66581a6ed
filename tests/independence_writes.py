"""Random programs that write into tensors and views of them, whose elements may or may not be mixed."""

import random
from collections.abc import Callable

import torch
from independence_programs import random_dim
from torch import Tensor

VIEWS: list[Callable[[Tensor, random.Random], Tensor]] = [
    lambda x, r: x.transpose(random_dim(x, r), random_dim(x, r)),
    lambda x, r: x[..., 0],
    lambda x, r: x[..., 1:],
    lambda x, r: x[0],
    lambda x, r: x[:1],
    lambda x, r: x[1:],
    lambda x, r: x.unsqueeze(random_dim(x, r)),
    lambda x, r: x.view(-1),
    lambda x, r: x.view(x.shape[0], -1),
    lambda x, r: x.view(-1, x.shape[-1]),
    lambda x, r: x.diagonal(dim1=-1, dim2=-2),
    lambda x, r: x.chunk(2, -1)[r.randrange(2)],
    lambda x, r: x.unbind(-1)[0],
    lambda x, r: x.data,
    lambda x, r: x.detach(),
    lambda x, r: x.squeeze(),
    lambda x, r: x.expand(2, *x.shape),
    lambda x, r: x.movedim(0, -1),
    lambda x, r: x[:, ::2],
    lambda x, r: x[..., ::2],
    lambda x, r: x.as_strided(x.shape[::-1], x.stride()[::-1]),
    lambda x, r: x.unfold(-1, 2, 1),
    lambda x, r: torch.nn.Parameter(x, requires_grad=False),
    lambda x, r: x.view_as(x),
    lambda x, r: x.T if x.dim() == 2 else x.mT,
    lambda x, r: x.clone(),
    lambda x, r: x.contiguous(),
    lambda x, r: torch.zeros_like(x),
    lambda x, r: torch.ones(*x.shape, 2, dtype=x.dtype)[..., 1],
    lambda x, r: torch.ones(2, *x.shape, dtype=x.dtype)[1],
    lambda x, r: x.sin(),
    lambda x, r: x.sum(random_dim(x, r), keepdim=True),
    lambda x, r: x.reshape(-1),
]


def setv(x, y, r):
    k = r.choice(
        [
            (Ellipsis,),
            (Ellipsis, 0),
            (0,),
            (slice(None), 0),
            (slice(1, None),),
            (Ellipsis, slice(0, 1)),
            (slice(None), torch.tensor([0, 1])),
            (torch.tensor([1, 0]),),
        ]
    )
    x[k] = y[k] if r.random() < 0.5 else y.flatten()[0]


def outw(x, y, r):
    torch.mul(y, 2.0, out=x)


def outs(x, y, r):
    torch.sum(y, random_dim(y, r), out=x)


def scat(x, y, r):
    d = random_dim(x, r)
    x.scatter_(d, (y > 0).long().clamp(max=x.shape[d] - 1), y)


WRITES: list[Callable[[Tensor, Tensor, random.Random], object]] = [
    lambda x, y, r: x.mul_(2),
    lambda x, y, r: x.add_(y),
    lambda x, y, r: x.copy_(y),
    setv,
    setv,
    outw,
    outs,
    lambda x, y, r: x.zero_(),
    lambda x, y, r: x.transpose_(random_dim(x, r), random_dim(x, r)),
    lambda x, y, r: x.squeeze_(),
    lambda x, y, r: x.unsqueeze_(random_dim(x, r)),
    lambda x, y, r: x.t_(),
    lambda x, y, r: x.data.mul_(3),
    lambda x, y, r: x.detach().add_(y),
    lambda x, y, r: x.masked_fill_(y > 0, 0.3),
    lambda x, y, r: scat(x, y, r),
    lambda x, y, r: x.index_add_(0, torch.tensor([1, 0]), y[:2]),
    lambda x, y, r: x.cumsum_(random_dim(x, r)),
    lambda x, y, r: x.sub_(x.mean()),
    lambda x, y, r: x.relu_(),
    lambda x, y, r: x.index_copy_(0, torch.tensor([1, 0]), y[:2]),
    lambda x, y, r: torch._foreach_add_([x], [y]),
    lambda x, y, r: x.set_(y),
    lambda x, y, r: x.swapaxes_(0, -1),
    lambda x, y, r: setattr(x, "data", y),
    lambda x, y, r: torch.utils.swap_tensors(x, y),
    lambda x, y, r: x.fill_diagonal_(1.0),
    lambda x, y, r: x.tril_(),
    lambda x, y, r: x.addmm_(y, y.mT),
    lambda x, y, r: x.normal_(),
    lambda x, y, r: x.uniform_(),
    lambda x, y, r: x.index_put_((torch.tensor([0, 1]),), y[0:1], accumulate=True),
    lambda x, y, r: x.select(random_dim(x, r), 0).add_(y.select(random_dim(y, r), 0)),
    lambda x, y, r: x.exp_(),
    lambda x, y, r: x.resize_(y.shape) if x.numel() == y.numel() else None,
    lambda x, y, r: x.as_strided_(x.shape[::-1], x.stride()[::-1]),
]


def random_writes(seed: int) -> Callable[[Tensor], Tensor]:
    """Views of one tensor, and of others, that are written into; steps that a shape does not allow are left out."""
    rng = random.Random(seed)
    plan = [rng.random() < 0.5 for _ in range(rng.randint(3, 9))]

    def program(z: Tensor) -> Tensor:
        pool = [z.clone()]
        for i, write in enumerate(plan):
            r = random.Random(seed * 77 + i)
            x, y = r.choice(pool[-3:]), r.choice(pool)
            try:
                if write:
                    r.choice(WRITES)(x, y, r)
                else:
                    made = r.choice(VIEWS)(x, r)
                    if 0 < made.numel() < 3000:
                        pool.append(made)
            except (RuntimeError, IndexError, ValueError, TypeError):
                continue
        return random.Random(seed).choice(pool) * 1

    return program
