"""Operations on tensors of no dimensions, of no entries and of one, and what holds C to torch on them."""

import torch
from c_harness import check
from torch.nn import functional as F

t = torch.tensor


ZERO, ONE, NONE = t(0), t([0]), torch.zeros(0, dtype=torch.int64)


def zero(x):
    return torch.zeros_like(x, dtype=torch.int64)


def first(x):
    return x.narrow(-1, 0, 1) if x.dim() else x


OPERATIONS = {
    "flip": lambda x: x.flip(-1),
    "flip none": lambda x: x.flip(()),
    "roll": lambda x: x.roll(1),
    "sum": lambda x: x.sum(-1),
    "sum keepdim": lambda x: x.sum(-1, keepdim=True),
    "mean": lambda x: x.mean(-1),
    "mean of all": lambda x: x.mean(),
    "prod": lambda x: x.prod(-1),
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1, keepdim=True),
    "cumsum": lambda x: x.cumsum(-1),
    "cumprod": lambda x: x.cumprod(-1),
    "cummax": lambda x: x.cummax(-1)[0],
    "sort": lambda x: x.sort(-1)[0],
    "topk": lambda x: x.topk(1)[0],
    "median": lambda x: x.median(-1)[0],
    "max": lambda x: x.max(-1)[0],
    "min keepdim": lambda x: x.min(-1, keepdim=True)[0],
    "amax": lambda x: x.amax(-1),
    "argmax": lambda x: x.argmax(-1) * 1.0,
    "any": lambda x: (x > 0).any(-1) * 1.0,
    "std": lambda x: x.std(-1, correction=0),
    "norm": lambda x: (x + 3).norm(),
    "gather": lambda x: x.gather(-1, zero(x)),
    "gather of a row": lambda x: x.gather(0, ONE) if x.dim() < 2 else x * 1,
    "gather of a number": lambda x: x.gather(0, ZERO) if x.dim() < 2 else x * 1,
    "index_select": lambda x: x.index_select(-1, ONE),
    "index_select of a number": lambda x: x.index_select(0, ZERO),
    "index_select of none": lambda x: x.index_select(-1, NONE) if x.dim() else x * 1,
    "scatter": lambda x: torch.zeros_like(x).scatter(-1, zero(x), x),
    "scatter a number": lambda x: torch.zeros(2).to(x).scatter(0, ZERO, x.sum()),
    "scatter into a number": lambda x: torch.zeros(()).to(x).scatter(0, ZERO, x.sum()),
    "scatter a row into a number": lambda x: torch.zeros(()).to(x).scatter(0, ONE, x.sum().reshape(1)),
    "scatter a value": lambda x: x.scatter(-1, zero(x), 2.0),
    "scatter_add": lambda x: x.scatter_add(-1, zero(x), x),
    "index_add": lambda x: x.index_add(-1, ONE, first(x)),
    "index_add with a factor": lambda x: x.index_add(-1, ONE, first(x), alpha=2),
    "index_copy": lambda x: x.index_copy(-1, ONE, 2 * first(x)),
    "index_fill": lambda x: x.index_fill(-1, ONE, 1.0),
    "index_put": lambda x: torch.zeros(3).to(x).index_put((ZERO,), x.sum()),
    "index_put, added": lambda x: torch.zeros(3).to(x).index_put((t([0, 1, 1]),), x.sum(), accumulate=True),
    "index of none": lambda x: x.reshape(-1)[NONE],
    "take_along_dim": lambda x: x.take_along_dim(zero(x), 0),
    "cat": lambda x: torch.cat([torch.zeros(0).to(x), x.reshape(-1), x.reshape(-1)]),
    "stack": lambda x: torch.stack([x, x], -1),
    "slice": lambda x: x.unsqueeze(-1)[..., :0].sum() + x.sum(),
    "slice_scatter": lambda x: torch.slice_scatter(x.unsqueeze(-1), x.unsqueeze(-1), -1),
    "select_scatter": lambda x: torch.select_scatter(x.unsqueeze(-1), x, -1, 0),
    "diag_embed": lambda x: torch.diag_embed(x.unsqueeze(-1)),
    "tril": lambda x: x.reshape(-1, 1).tril(),
    "outer": lambda x: torch.outer(x.reshape(-1), x.reshape(-1)),
    "dot": lambda x: x.reshape(-1).dot(x.reshape(-1)),
    "mm": lambda x: x.reshape(1, -1) @ x.reshape(-1, 1),
    "bmm of none": lambda x: torch.zeros(0, 2, 3).to(x).bmm(torch.zeros(0, 3, 2).to(x)).sum() + x.sum(),
    "embedding": lambda x: F.embedding(ZERO, x.reshape(-1, 1)),
    "logsigmoid": F.logsigmoid,
    "cross entropy": lambda x: F.cross_entropy(x.reshape(1, -1), ONE),
    "expand": lambda x: x.expand(3, *x.shape) * 1,
    "sgn": lambda x: x.sgn() * x,
    "where": lambda x: torch.where(x > 0, x, 0.0),
}


def with_gradient(operation):
    def both(x):
        with torch.enable_grad():
            y = operation(x)
            if not y.requires_grad:
                return y.detach()
            (gradient,) = torch.autograd.grad((y * y.cos()).sum(), x, allow_unused=True)
        return [y.detach(), *([] if gradient is None else [gradient])]

    return both


def c_agrees_with_torch(shape, tmp_path, monkeypatch):
    """Those that torch itself takes, in one library."""
    monkeypatch.setenv("VARIGRAD_CACHE", str(tmp_path))
    count = max(1, torch.Size(shape).numel())
    x = torch.linspace(-1.3, 0.9, count)[: torch.Size(shape).numel()].reshape(shape) + 0.1
    x.requires_grad_()
    possible = []
    for operation in map(with_gradient, OPERATIONS.values()):
        try:
            operation(x)
        except (RuntimeError, IndexError):  # torch does not take it
            continue
        possible.append(operation)
    assert len(possible) > 35
    check(possible, [x], calls=True)
