"""Code of a user's that torch calls with plain tensors in the middle of an operation."""

import io
import random
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.autograd.forward_ad as fwad
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from leaks.base import CALLS, number, one, way
from leaks.gradients import leaf


@way(CALLS)
def hook_on_saved_tensors(z):
    seen = []
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        leaf() * z
    return seen[-1] * 1.0


@way(CALLS)
def traced_by_jit(z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(lambda w: w * z, (torch.ones(()),), check_trace=False)(torch.ones(()))


class Keeps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen.append(result)
        return result


@way(CALLS)
def mode_below_python(z):
    with Keeps() as mode:
        z * 2
    return mode.seen[0] + 0.5


@torch.library.custom_op("varigrad_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    SEEN.append(x.clone())
    return x * 2


SEEN = []


@way(CALLS)
def custom_operator(z):
    SEEN.clear()
    doubled(z)
    return SEEN[0] * 1.0


LIBRARY = torch.library.Library("varigrad_tests", "FRAGMENT")
LIBRARY.define("noted(Tensor x) -> Tensor")
LIBRARY.impl("noted", lambda x: SEEN.append(x.clone()) or x * 2, "CPU")


@way(CALLS)
def defined_operator(z):
    SEEN.clear()
    torch.ops.varigrad_tests.noted(z)
    return SEEN[0] * 1.0


@way(CALLS)
def distance_function(z):
    seen = []

    def distance(x, y):
        seen.append(x.sum())
        return (x - y).abs()

    F.triplet_margin_with_distance_loss(z.reshape(1), one().reshape(1), -one().reshape(1), distance_function=distance)
    return seen[0] * 1.0


class Notes(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        SEEN.append(x * 1.0)
        return x * 2

    @staticmethod
    def backward(ctx, above):
        SEEN.append(ctx.saved_tensors[0] * 1.0)
        return above * 2


@way(CALLS)
def forward_of_a_function(z):
    SEEN.clear()
    Notes.apply(z)
    return SEEN[0] * 1.0


@way(CALLS)
def backward_of_a_function(z):
    SEEN.clear()
    with torch.enable_grad():
        w = leaf()
        (Notes.apply(w * z)).backward()
    return SEEN[-1] * 1.0


@way(CALLS)
def applied_to_each_element(z):
    seen = []
    z.clone().apply_(lambda x: seen.append(x) or x)
    return number(seen[0])


CALLS["linearize"] = lambda z: linearize(lambda x: x * z, one())[1](one())
CALLS["vjp_closure"] = lambda z: vjp(lambda x: x * z, one())[1](one())[0]
CALLS["jvp_closure"] = lambda z: jvp(lambda x: x * z, (one(),), (one(),))[1]
CALLS["jvp_tangent"] = lambda z: jvp(lambda x: x * 2, (one(),), (z,))[1]
CALLS["grad_closure"] = lambda z: grad(lambda x: x * z)(one())
CALLS["jacrev"] = lambda z: jacrev(lambda x: x * x * z)(one())
CALLS["jacfwd"] = lambda z: jacfwd(lambda x: x * z)(one())
CALLS["hessian"] = lambda z: hessian(lambda x: x * x * z)(one())
CALLS["functionalize"] = lambda z: functionalize(lambda x: x * z)(one())
CALLS["functional_call"] = lambda z: functional_call(
    nn.Linear(1, 1, bias=False), {"weight": z.reshape(1, 1)}, torch.ones(1)
)[0]
CALLS["vmap_of_grad"] = lambda z: vmap(grad(lambda x: x * z))(torch.ones(2))[0]
CALLS["fx"] = lambda z: torch.fx.symbolic_trace(lambda x: x * z)(one())
CALLS["make_fx"] = lambda z: torch.fx.experimental.proxy_tensor.make_fx(lambda x: x * z)(one())(one())
CALLS["traced_closure"] = lambda z: torch.jit.trace(lambda x: x * z.detach(), one())(one())
CALLS["forked"] = lambda z: torch.jit.wait(torch.jit.fork(lambda x: x * 2, z))
CALLS["threads"] = lambda z: ThreadPoolExecutor(1).submit(lambda: number(z.item())).result()
CALLS["checkpoint_of_a_closure"] = lambda z: checkpoint(lambda x: x * z, one(), use_reentrant=False)
CALLS["saved_to_a_file"] = lambda z: _through_a_file(z)
CALLS["called_by_numpy"] = lambda z: number(np.vectorize(lambda x: x * 2)(z.numpy()))


def _through_a_file(z):
    file = io.BytesIO()
    torch.save(z, file)
    file.seek(0)
    return torch.load(file, weights_only=False) * 1.0


@way(CALLS)
def dual_numbers(z):
    with fwad.dual_level():
        return fwad.unpack_dual(fwad.make_dual(one(), z) * 2).tangent * 1.0


@way(CALLS)
def forward_hook(z):
    seen, net = [], nn.Identity()
    net.register_forward_hook(lambda module, args, result: seen.append(result))
    net(z)
    return seen[0]


@way(CALLS)
def function_mode(z):
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            seen.append(result)
            return result

    seen = []
    with Mode():
        z * 2
    return seen[0]


@way(CALLS)
def warning_recorded(z):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.log(z.numpy())
    return number(len(caught))


@way(CALLS)
def generator_used_up(z):
    generator = torch.Generator().manual_seed(1)
    torch.poisson(z * 30, generator=generator)
    return torch.rand((), generator=generator)


@way(CALLS)
def generator_seeded(z):
    torch.manual_seed(z.long())
    return torch.rand(())


@way(CALLS)
def python_generator(z):
    return number(random.Random(int(z)).random())
