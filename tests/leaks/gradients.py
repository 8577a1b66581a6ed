"""Gradients inside a program: autograd writes into `.grad`, and calls hooks."""

import torch
import torch.nn.functional as F
from torch import nn

from leaks.base import BACKWARD, one, way


def leaf():
    return torch.ones((), requires_grad=True)


def backwards(name, run):
    def leak(z):
        w = leaf()
        with torch.enable_grad():
            run(w, z)
        return w.grad * 1.5

    BACKWARD[name] = leak


backwards("method", lambda w, z: (w * z).backward())
backwards("function", lambda w, z: torch.autograd.backward(w * z))
backwards("of_a_list", lambda w, z: torch.autograd.backward([w * z, w * 1.0]))
backwards("gradient_given", lambda w, z: (w * 1.0).backward(z))
backwards("gradient_given_by_keyword", lambda w, z: torch.autograd.backward(tensors=w * 1.0, grad_tensors=z))
backwards("inputs_named", lambda w, z: (w * z).backward(inputs=[w]))
backwards("accumulated", lambda w, z: [(w * 1.0).backward(), (w * z).backward()])
backwards("attribute", lambda w, z: setattr(w, "grad", z * 1.0))
backwards("through_a_loss", lambda w, z: F.mse_loss(w, z * 2).backward())
backwards("hook_replaces", lambda w, z: [w.register_hook(lambda g: g * z), (w * 1.0).backward()])


def fitted(make):
    def leak(z):
        w = nn.Parameter(torch.zeros(()))
        optimiser = make(w)

        def closure():
            optimiser.zero_grad()
            loss = (w - 2 * z) ** 2
            loss.backward()
            return loss

        with torch.enable_grad():
            for _ in range(2):
                optimiser.step(closure)
        return w.detach() * 1.0

    return leak


for kind, options in (
    ("SGD", {"lr": 0.3, "momentum": 0.5}),
    ("Adam", {"lr": 0.3}),
    ("AdamW", {"lr": 0.3, "foreach": True}),
    ("RMSprop", {"lr": 0.3, "foreach": False}),
    ("LBFGS", {"lr": 0.3}),
):
    BACKWARD[f"inner_{kind}"] = fitted(lambda w, kind=kind, options=options: getattr(torch.optim, kind)([w], **options))


@way(BACKWARD)
def optimiser_on_an_attribute(z):
    w = nn.Parameter(torch.zeros(()))
    w.grad = z * 2.0
    torch.optim.SGD([w], lr=0.5, foreach=True).step()
    return w.detach()


@way(BACKWARD)
def gradient_clipped(z):
    w = nn.Parameter(torch.zeros(()))
    w.grad = torch.full((), 3.0)
    nn.utils.clip_grad_norm_([w], z + 0.5)
    return w.grad * 1.0


@way(BACKWARD)
def gradient_asked_for(z):
    w = leaf()
    with torch.enable_grad():
        return torch.autograd.grad(w * w * z, w)[0]


@way(BACKWARD)
def hook_of_a_leaf(z):
    seen, w = [], leaf()
    w.register_hook(seen.append)
    with torch.enable_grad():
        torch.autograd.grad(w * z, w)
    return seen[0]


@way(BACKWARD)
def hook_after_accumulation(z):
    seen, w = [], leaf()
    w.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad * 1.0))
    with torch.enable_grad():
        (w * z).backward()
    return seen[0]


@way(BACKWARD)
def hook_of_a_node(z):
    seen, w = [], leaf()
    with torch.enable_grad():
        y = w * 1.0
        y.grad_fn.register_prehook(lambda grads: seen.append(grads[0]))
        (y * z).backward()
    return seen[0]


@way(BACKWARD)
def hook_of_a_module(z):
    seen, net = [], nn.Linear(1, 1)
    net.register_full_backward_hook(lambda module, below, above: seen.append(above[0].sum()))
    with torch.enable_grad():
        (net(torch.ones(1, requires_grad=True)) * z).sum().backward()
    return seen[0]


@way(BACKWARD)
def jacobian(z):
    return torch.autograd.functional.jacobian(lambda x: x * z, one())


@way(BACKWARD)
def second_derivative(z):
    return torch.autograd.functional.hessian(lambda x: x * x * z, one())


@way(BACKWARD)
def saved_tensor_of_a_node(z):
    with torch.enable_grad():
        return (leaf() * z).grad_fn._saved_other * 1.0
