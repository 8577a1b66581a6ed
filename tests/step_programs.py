"""Programs whose gradients come in every layout, plain optimisers to hold steps to, and the two side by side.

A layout makes parameters and says their loss, in torch alone. As a program of ours, the loss is a factor, so that its
surrogate is minus the loss, without any randomness: n steps of an SVI are n steps of torch's plain optimiser along
the gradients that `backward()` leaves.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import varigrad as vg
from varigrad.optim.adagrad_rmsprop import AdagradRMSProp
from varigrad.optim.clipped_adam import ClippedAdam

STEPS = 6
ROUNDINGS = 32
"""How many operations a step of an optimiser makes of a parameter's value, at most; each rounds once."""


@dataclass(frozen=True)
class Vectorization:
    """Parameters and a loss.

    Attributes:
        make: dtype -> the parameters, new ones at every call.
        loss: of these parameters, a real scalar.
    """

    make: Callable[[torch.dtype], list[nn.Parameter]]
    loss: Callable[..., torch.Tensor]


def values(*shape, dtype=torch.float32, start=1):
    """Numbers between 0.3 and 1.2, all different, none of which is near a symmetric place."""
    n = int(torch.tensor(shape).prod()) if shape else 1
    numbers = 0.3 + 0.9 * torch.frac(0.6180339887 * torch.arange(start, start + n, dtype=torch.float64))
    return numbers.reshape(shape).to(dtype)


def one(*shape, change=lambda t: t):
    return lambda dtype: [nn.Parameter(change(values(*shape, dtype=dtype)))]


def several(*shapes):
    return lambda dtype: [nn.Parameter(values(*s, dtype=dtype, start=7 * i + 1)) for i, s in enumerate(shapes)]


def like(w, *shape):
    """Constants in the type of a parameter."""
    return values(*shape, dtype=w.dtype, start=40)


def far(x):
    """A loss whose gradient is neither zero nor constant."""
    return (x - 3).abs().square().sum() / 4


class _Known(torch.autograd.Function):
    """A product, not multiplied by anything since, whose gradient is the very tensor that the user holds."""

    @staticmethod
    def forward(ctx, w, x, minus_x):
        ctx.held = x, minus_x
        return (w * x).sum()

    @staticmethod
    def backward(ctx, g):
        assert abs(float(g)) == 1
        return ctx.held[0 if g > 0 else 1], None, None


DATA = {
    d: values(4, dtype=d, start=90)
    for d in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)
}
"""What gradients are computed from, or are, with the other sign here:"""
MINUS_DATA = {d: -x for d, x in DATA.items()}


def _neighbours(dtype):
    whole = values(9, dtype=dtype)
    return [nn.Parameter(whole[:4]), nn.Parameter(whole[4:])]


def _odd(t):
    """A matrix of one row, whose stride along the rows says nothing."""
    return t.as_strided((1, 4), (77, 1))


LAYOUTS = {
    "sum": Vectorization(one(5), lambda w: far(w.sum())),
    "mean": Vectorization(one(5), lambda w: far(w.mean())),
    "sum of a product": Vectorization(one(5), lambda w: far((w * 1).sum())),
    "expand": Vectorization(one(3, 1), lambda w: far((w.expand(3, 4) * like(w, 3, 4)).sum(0))),
    "expand a number": Vectorization(one(), lambda w: far(w.expand(3, 2) * like(w, 3, 2))),
    "sum of columns": Vectorization(one(3, 2), lambda w: far(w.sum(0))),
    "sum of rows": Vectorization(one(3, 2), lambda w: far(w.sum(1, keepdim=True))),
    "transpose": Vectorization(one(3, 2), lambda w: far(w.T @ like(w, 3))),
    "transposed and multiplied": Vectorization(one(3, 2), lambda w: far(w.T * like(w, 2, 3))),
    "permute": Vectorization(one(2, 3, 4), lambda w: far(w.permute(2, 0, 1) * like(w, 4, 2, 3))),
    "einsum": Vectorization(one(3, 2), lambda w: far(torch.einsum("ij,kj->ki", w, like(w, 4, 2)))),
    "linear": Vectorization(one(3, 2), lambda w: far(nn.functional.linear(like(w, 4, 2), w).tanh())),
    "flip": Vectorization(one(5), lambda w: far(w.flip(0) * like(w, 5))),
    "broadcast": Vectorization(several((4,), (3, 1)), lambda v, w: far(v + w)),
    "diagonal": Vectorization(one(3, 3), lambda w: far(w.diagonal().sum())),
    "index": Vectorization(one(5, 2), lambda w: far(w[torch.tensor([0, 3, 3])].sum(0) + w[1])),
    "slices": Vectorization(one(6), lambda w: far(w[::2] * w[1::2])),
    "cat": Vectorization(several((2, 3), (2, 3)), lambda v, w: far(torch.cat([v.T, w.T]).sum(1))),
    "stack": Vectorization(several((3,), (3,)), lambda v, w: far(torch.stack([v, w]).sum(0))),
    "exp": Vectorization(one(5), lambda w: far(w.exp().sum())),
    "a number": Vectorization(one(), lambda w: far(w)),
    "one element": Vectorization(one(1, 1), lambda w: far(w.sum())),
    "empty": Vectorization(several((0, 3), (3,)), lambda v, w: far(v.sum(0) + w.sum())),
    "read twice": Vectorization(one(4), lambda w: far(w.sum()) + far(w.flip(0) * like(w, 4))),
    "one gradient for two": Vectorization(several((4,), (4,)), lambda v, w: far(v + w)),
    "views of one gradient": Vectorization(several((4,), (4,)), lambda v, w: far(v.view(4, 1) + w.view(4, 1))),
    "the user's data": Vectorization(one(4), lambda w: far(w) + _Known.apply(w, DATA[w.dtype], MINUS_DATA[w.dtype])),
    "one is not reached": Vectorization(several((4,), (2,)), lambda v, w: far(v.sum())),
    "transposed parameter": Vectorization(one(3, 2, change=lambda t: t.T), lambda w: far(w * like(w, 2, 3))),
    "transposed parameter, summed": Vectorization(one(3, 2, change=lambda t: t.T), lambda w: far(w.sum())),
    "permuted parameter": Vectorization(one(2, 3, 4, change=lambda t: t.permute(1, 2, 0)), lambda w: far(w.sum(0).T)),
    "channels-last parameter": Vectorization(
        one(2, 3, 2, 2, change=lambda t: t.to(memory_format=torch.channels_last)),
        lambda w: far(nn.functional.conv2d(like(w, 1, 3, 3, 3), w)),
    ),
    "strided parameter": Vectorization(one(10, change=lambda t: t[::2]), lambda w: far(w * like(w, 5))),
    "strided parameter, summed": Vectorization(one(3, 4, change=lambda t: t[:, ::2]), lambda w: far(w.sum(0))),
    "parameter inside a tensor": Vectorization(one(9, change=lambda t: t[3:8]), lambda w: far(w.sum())),
    "neighbours in memory": Vectorization(_neighbours, lambda v, w: far(v.sum() + w.sum())),
    "parameter of one row": Vectorization(one(4, change=_odd), lambda w: far(w.sum(0) * like(w, 4))),
}  # fmt: skip

NO_C = {"the user's data"}
"""What cannot be recorded: a function of the user's own, in Python."""


class Holder(nn.Module):
    """The parameters, as a module of the user's."""

    def __init__(self, parameters):
        super().__init__()
        self.all = nn.ParameterList(parameters)


COMPILED = {name: case for name, case in LAYOUTS.items() if name not in NO_C}


def together(cases, dtype):
    """All layouts in one program, which is compiled once, and the name of each parameter's layout."""
    made = {name: case.make(dtype) for name, case in cases.items()}
    sizes = [len(ps) for ps in made.values()]
    names = [f"{name}, {i}" for name, ps in made.items() for i in range(len(ps))]

    def loss(*parameters):
        parts = iter(parameters)
        return sum(case.loss(*(next(parts) for _ in range(n))) for case, n in zip(cases.values(), sizes, strict=True))

    return loss, [p for ps in made.values() for p in ps], names


def program(loss, parameters):
    """A model and a guide with this loss, and the parameters' names."""
    holder = Holder(parameters)

    def model():
        vg.module("net", holder)
        vg.factor("minus_loss", -loss(*holder.all))

    def guide():
        pass

    return model, guide


def followed(loss, parameters, plain, steps=STEPS, clip_norm=None):
    """The parameters after steps of torch's plain optimiser along the gradients of `backward()`."""
    optimizer = plain(parameters)
    by_line_search = isinstance(optimizer, torch.optim.LBFGS)

    def closure():
        optimizer.zero_grad(set_to_none=True)
        value = loss(*parameters)
        value.backward()
        for p in parameters if by_line_search else ():
            p.grad = None if p.grad is None else p.grad.contiguous()  # or torch's LBFGS refuses
        return value

    for _ in range(steps):
        closure()
        for p in parameters if not by_line_search else ():
            p.grad = None if p.grad is None else p.grad.clone()  # `backward()` lets two share one
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, clip_norm, foreach=False)
        optimizer.step(closure) if by_line_search else optimizer.step()
    return [p.detach().clone() for p in parameters]


def stepped(loss, parameters, optim, steps=STEPS, **options):
    """The parameters after steps of an SVI, and the SVI."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is not reached by any gradient")
        svi = vg.SVI(*program(loss, parameters), optim, seed=0, **options)
        svi.run(steps, progress=False)
    return [p.detach().clone() for p in parameters], svi


def assert_close(found, expected, steps=STEPS, name=""):
    """Equal up to the roundings of so many steps."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.numel():
            size = max(1.0, float(b.abs().max()))
            limit = steps * ROUNDINGS * torch.finfo(a.dtype).eps * size
            assert float((a - b).abs().max()) <= limit, (name or i, a, b, limit)


# Optimisers


class PlainClippedAdam(torch.optim.Optimizer):
    """The formulas of `ClippedAdam`, one parameter at a time, nothing in place."""

    def __init__(self, params, lr=1e-2, clip=10.0, lrd=1.0, decay=0.0, centered=False):
        super().__init__(params, {})
        self.lr, self.clip, self.lrd, self.decay, self.centered, self.k = lr, clip, lrd, decay, centered, 0

    @torch.no_grad()
    def step(self):
        self.k, self.lr = self.k + 1, self.lr * self.lrd
        for p in [p for group in self.param_groups for p in group["params"] if p.grad is not None]:
            g = p.grad.clamp(-self.clip, self.clip) + self.decay * p
            m, v = self.state[p].get("mv", (torch.zeros_like(p), torch.zeros_like(p)))
            m = 0.9 * m + 0.1 * g
            v = 0.999 * v + 0.001 * (g - m if self.centered else g) ** 2
            self.state[p]["mv"] = m, v
            p.copy_(p - self.lr * (1 - 0.999**self.k) ** 0.5 / (1 - 0.9**self.k) * m / (v.sqrt() + 1e-8))


class PlainAdagradRMSProp(torch.optim.Optimizer):
    """The formulas of `AdagradRMSProp`."""

    def __init__(self, params, eta=0.1, delta=1e-16, t=0.1):
        super().__init__(params, {})
        self.eta, self.delta, self.t, self.k = eta, delta, t, 0

    @torch.no_grad()
    def step(self):
        self.k += 1
        for p in [p for group in self.param_groups for p in group["params"] if p.grad is not None]:
            s = self.state[p].get("s")
            square = p.grad * p.grad
            s = self.state[p]["s"] = square if s is None else (1 - self.t) * s + self.t * square
            p.copy_(p - self.eta * self.k ** (self.delta - 0.5) * p.grad / (1 + s.sqrt()))


PLAIN = {"foreach": False}


def _torch(name, plain=None, **settings):
    """An optimiser of torch, and the plain form of it."""
    kind = getattr(torch.optim, name)
    plain = {k: v for k, v in settings.items() if k not in ("fused", "foreach")} | (PLAIN if plain is None else plain)
    return vg.optim.Optimizer(kind, settings), lambda ps: kind(ps, **plain)


def _ours(kind, plain, settings, plain_settings):
    return vg.optim.Optimizer(kind, settings), lambda ps: plain(ps, **plain_settings)


def _adam(ps):
    return torch.optim.Adam(ps, lr=0.02, foreach=False)


OPTIMIZERS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "vg Adam": (vg.optim.Adam(lr=0.02), _adam),
    "vg SGD": (vg.optim.SGD(lr=0.01), lambda ps: torch.optim.SGD(ps, lr=0.01, foreach=False)),
    "vg SGD momentum": (
        vg.optim.SGD(lr=0.01, momentum=0.8),
        lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.8, foreach=False),
    ),
    "Adam": _torch("Adam", lr=0.02),
    "Adam foreach": _torch("Adam", lr=0.02, foreach=True),
    "Adam fused": _torch("Adam", lr=0.02, fused=True),
    "Adam amsgrad": _torch("Adam", lr=0.02, amsgrad=True),
    "Adam amsgrad fused": _torch("Adam", lr=0.02, amsgrad=True, fused=True),
    "Adam weight decay": _torch("Adam", lr=0.02, weight_decay=0.1),
    "AdamW": _torch("AdamW", lr=0.02, weight_decay=0.1),
    "AdamW fused": _torch("AdamW", lr=0.02, weight_decay=0.1, fused=True),
    "SGD decay": _torch("SGD", lr=0.01, momentum=0.8, dampening=0.3, weight_decay=0.1),
    "SGD nesterov": _torch("SGD", lr=0.01, momentum=0.8, nesterov=True),
    "SGD nesterov foreach": _torch("SGD", lr=0.01, momentum=0.8, nesterov=True, foreach=True),
    "SGD fused": _torch("SGD", lr=0.01, momentum=0.8, fused=True),
    "RMSprop": _torch("RMSprop", lr=0.01, momentum=0.5, centered=True),
    "RMSprop foreach": _torch("RMSprop", lr=0.01, momentum=0.5, foreach=True),
    "Adagrad": _torch("Adagrad", lr=0.02),
    "Adagrad fused": _torch("Adagrad", lr=0.02, fused=True),
    "Adadelta": _torch("Adadelta", lr=0.5),
    "NAdam": _torch("NAdam", lr=0.02),
    "RAdam": _torch("RAdam", lr=0.02),
    "Adamax": _torch("Adamax", lr=0.02),
    "ASGD": _torch("ASGD", lr=0.01),
    "Rprop": _torch("Rprop", lr=0.01),
    "Adafactor": _torch("Adafactor", lr=0.02),
    "LBFGS": _torch("LBFGS", {}, lr=0.1, max_iter=2),
    "Muon": _torch("Muon", {}, lr=0.02),
    "ClippedAdam": _ours(ClippedAdam, PlainClippedAdam, {"lr": 0.02}, {"lr": 0.02}),
    "ClippedAdam, all options": _ours(
        ClippedAdam,
        PlainClippedAdam,
        {"lr": 0.02, "clip_norm": 0.5, "lrd": 0.9, "weight_decay": 0.1, "centered_variance": True},
        {"lr": 0.02, "clip": 0.5, "lrd": 0.9, "decay": 0.1, "centered": True},
    ),
    "AdagradRMSProp": _ours(AdagradRMSProp, PlainAdagradRMSProp, {"eta": 0.1}, {"eta": 0.1}),
}  # fmt: skip
