"""Ways in which what a random choice was can leave torch, by five kinds, and those that torch's results carry.

Each takes the choice `z`, a tensor without dimensions that is 0.0 or 1.0, and answers with a plain or a tracked tensor
that differs between the two. A gradient that forgets the way is wrong by far more than rounding.
"""

import contextlib
import copy
import ctypes
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

ERRORS, BACKWARD, WRITES, SIZES, CALLS, POINTERS, CARRIED = {}, {}, {}, {}, {}, {}, {}
KINDS = {
    "errors": ERRORS,
    "backward": BACKWARD,
    "writes": WRITES,
    "sizes": SIZES,
    "calls": CALLS,
    "pointers": POINTERS,
    "carried": CARRIED,
}


def number(value):
    return torch.tensor(float(value))


def table():
    return torch.tensor([0.3, 1.4])


def one():
    return torch.ones(())


def way(kind):
    def register(function):
        kind[function.__name__] = function
        return function

    return register


# Errors: that torch raises one, and that it raises none, tells what the value was.


def raises(name, action, error=RuntimeError):
    def leak(z):
        try:
            action(z)
        except error:
            return number(1.5)
        return number(0.2)

    ERRORS[name] = leak


def far(z):
    return (z * 7).long()


raises("factor_of_no_positive_matrix", lambda z: torch.linalg.cholesky(torch.eye(2) * (0.5 - z)))
raises("inverse_of_a_singular_matrix", lambda z: torch.linalg.inv(torch.eye(2) * z))
raises("solution_with_a_singular_matrix", lambda z: torch.linalg.solve(torch.eye(2) * z, torch.ones(2)))
raises("method_inverse", lambda z: (torch.eye(2) * z).inverse())
raises("index_out_of_range", lambda z: table()[far(z)], IndexError)
raises("index_list_out_of_range", lambda z: table()[[far(z)]], IndexError)
raises("gather_out_of_range", lambda z: table().gather(0, far(z).reshape(1)))
raises("index_select_out_of_range", lambda z: table().index_select(0, far(z).reshape(1)), (RuntimeError, IndexError))
raises("take_out_of_range", lambda z: torch.take(table(), far(z)), (RuntimeError, IndexError))
raises("embedding_out_of_range", lambda z: F.embedding(far(z).reshape(1), torch.ones(2, 1)), IndexError)
raises("scatter_out_of_range", lambda z: table().scatter(0, far(z).reshape(1), 1.0))
raises("class_out_of_range", lambda z: F.cross_entropy(torch.zeros(1, 2), far(z).reshape(1)), IndexError)
raises("one_hot_out_of_range", lambda z: F.one_hot(far(z), 3))
raises("integer_division_by_zero", lambda z: torch.tensor(3) // z.long(), (RuntimeError, ZeroDivisionError))
raises("integer_remainder_by_zero", lambda z: torch.tensor(3) % z.long(), (RuntimeError, ZeroDivisionError))
raises("division_rounded", lambda z: torch.div(torch.tensor(3), z.long(), rounding_mode="floor"))
raises("probability_above_one", lambda z: torch.bernoulli(z + 0.5))
raises("weights_all_zero", lambda z: torch.multinomial(z.reshape(1), 1))
raises("cross_entropy_of_no_probability", lambda z: F.binary_cross_entropy((z + 0.5).reshape(1), torch.ones(1)))
raises("negative_spread", lambda z: torch.normal(torch.zeros(1), (0.5 - z).reshape(1)))
raises("negative_counts", lambda z: torch.bincount(-z.long().reshape(1)))
raises("quantile_out_of_range", lambda z: torch.quantile(table(), z + 0.5))
raises("assertion", lambda z: torch._assert_async(z))
raises(
    "negative_variance",
    lambda z: F.gaussian_nll_loss(one().reshape(1), one().reshape(1), (0.5 - z).reshape(1)),
    ValueError,
)
raises(
    "covariance", lambda z: torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2) * (0.5 - z)), ValueError
)
raises(
    "operator_itself", lambda z: torch.ops.aten.index_select(table(), 0, far(z).reshape(1)), (RuntimeError, IndexError)
)
raises("closest_close", lambda z: torch.testing.assert_close(z, one()), AssertionError)


@torch.jit.script
def _scripted_choice(i):
    return torch.ones(2).index_select(0, i)


raises("scripted_error", lambda z: _scripted_choice(far(z).reshape(1)))


@way(ERRORS)
def error_suppressed(z):
    answer = number(1.5)
    with contextlib.suppress(IndexError):
        table()[far(z)]
        answer = number(0.2)
    return answer


class _Swallows:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True


@way(ERRORS)
def error_swallowed_by_a_manager(z):
    answer = number(1.5)
    with _Swallows():
        table()[far(z)]
        answer = number(0.2)
    return answer


@contextlib.contextmanager
def _lenient():
    try:  # noqa: SIM105 - an `except` is what this is about
        yield
    except IndexError:
        pass


@way(ERRORS)
def error_swallowed_by_a_generator(z):
    answer = number(1.5)
    with _lenient():
        table()[far(z)]
        answer = number(0.2)
    return answer


@way(ERRORS)
def error_caught_further_up(z):
    def inner():
        with torch.no_grad():
            return table()[far(z)]

    try:
        for _ in range(1):
            inner()
    except IndexError:
        return number(1.5)
    return number(0.2)


@way(ERRORS)
def error_in_a_finally(z):
    seen = []
    try:
        try:
            table()[far(z)]
            seen.append(1)
        finally:
            seen.append(2)
    except IndexError:
        pass
    return number(len(seen))


@way(ERRORS)
def error_of_a_future(z):
    with ThreadPoolExecutor(1) as pool:
        return number(pool.submit(lambda: table()[far(z)]).exception() is None)


# Gradients inside a program: autograd writes into `.grad`, and calls hooks.


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


# Writes that the version counters, the order or the names of the arguments hide.


def writes(name, write):
    def leak(z):
        buffer = torch.zeros(2)
        write(buffer, z)
        return buffer[0] * 1.0

    WRITES[name] = leak


writes("foreach_add", lambda b, z: torch._foreach_add_([b], [z.expand(2)]))
writes("foreach_copy", lambda b, z: torch._foreach_copy_([b], [z.expand(2)]))
writes("foreach_mul_by_keyword", lambda b, z: torch._foreach_add_(self=[b], other=[z.expand(2)]))
writes("fill_by_keyword", lambda b, z: torch.fill_(input=b, value=z))
writes("index_fill_by_keyword", lambda b, z: b.index_fill_(dim=0, index=torch.tensor([0]), value=z))
writes("out_by_keyword", lambda b, z: torch.mul(input=z, other=torch.ones(2), out=b))
writes("out_of_a_pair", lambda b, z: torch.max(z.expand(2, 1), dim=1, out=(b, torch.zeros(2, dtype=torch.long))))
writes("out_of_cat", lambda b, z: torch.cat([z.reshape(1), z.reshape(1)], out=b))
writes("out_of_linalg", lambda b, z: torch.linalg.vector_norm(z.expand(2, 1), dim=1, out=b))
writes("vector_to_parameters", lambda b, z: nn.utils.vector_to_parameters(torch.stack([z, z]), [b]))
writes("swapped_memory", lambda b, z: setattr(b, "data", torch.stack([z, z])))
writes("set_", lambda b, z: b.set_(torch.stack([z, z])))
writes("set_source_by_keyword", lambda b, z: b.set_(source=torch.stack([z, z])))
writes("put", lambda b, z: b.put_(torch.tensor([0]), z.reshape(1)))
writes("index_put", lambda b, z: b.index_put_((torch.tensor([0]),), z))
writes("masked_scatter", lambda b, z: b.masked_scatter_(torch.tensor([True, False]), z.reshape(1)))
writes("scatter_reduce", lambda b, z: b.scatter_reduce_(0, torch.tensor([0]), z.reshape(1), reduce="sum"))
writes("lerp", lambda b, z: b.lerp_(torch.ones(2), z))
writes("addcmul", lambda b, z: b.addcmul_(torch.ones(2), z))
writes("through_a_view", lambda b, z: b.view(2, 1).unbind()[0].copy_(z.reshape(1)))
writes("through_detach", lambda b, z: b.detach().copy_(z))
writes("augmented", lambda b, z: b.__iadd__(z))
writes("slice_of_a_view", lambda b, z: b[:1].unsqueeze(0).__setitem__((0, 0), z))
writes("real_part", lambda b, z: setattr(b, "real", z.expand(2)))
writes("initialised", lambda b, z: nn.init.constant_(b, z))
writes("operator_itself", lambda b, z: torch.ops.aten.copy_(b, z.expand(2)))
writes("operator_with_out", lambda b, z: torch.ops.aten.mul.out(z, torch.ones(2), out=b))
writes("in_inference_mode", lambda b, z: torch.inference_mode()(lambda: b.copy_(z))())
writes("scripted", lambda b, z: _scripted_write(b, z))
writes("inside_vmap", lambda b, z: vmap(lambda row: row.add_(z))(b))
writes("map_", lambda b, z: b.map_(z.expand(2).contiguous(), lambda x, y: y))
writes("relu_in_place", lambda b, z: F.relu(b.add_(z), inplace=True))
writes("renormalised", lambda b, z: F.embedding(z.long().reshape(1), b.add_(3.0).view(2, 1), max_norm=1.0))


@torch.jit.script
def _scripted_write(b, z):
    b.copy_(z)


def pair(z):
    return torch.stack([z, one()]).reshape(2, 1)


@way(WRITES)
def running_averages_of_a_module(z):
    net = nn.BatchNorm1d(1, affine=False)
    net(pair(z))
    return net.running_mean[0] * 10


@way(WRITES)
def running_averages_by_keyword(z):
    mean, variance = torch.zeros(1), torch.ones(1)
    F.batch_norm(pair(z), running_mean=mean, running_var=variance, training=True)
    return mean[0] * 10


@way(WRITES)
def running_averages_of_the_function_below(z):
    mean, variance = torch.zeros(1), torch.ones(1)
    torch.batch_norm(pair(z), None, None, mean, variance, True, 0.1, 1e-5, False)
    return mean[0] * 10


@way(WRITES)
def running_averages_of_the_operator(z):
    mean, variance = torch.zeros(1), torch.ones(1)
    torch.ops.aten.native_batch_norm(pair(z), None, None, mean, variance, True, 0.1, 1e-5)
    return mean[0] * 10


@way(WRITES)
def running_averages_of_instances(z):
    mean, variance = torch.zeros(1), torch.ones(1)
    F.instance_norm(pair(z).reshape(1, 1, 2), mean, variance, use_input_stats=True)
    return mean[0] * 10


@way(WRITES)
def running_averages_scripted(z):
    net = torch.jit.script(nn.BatchNorm1d(1, affine=False))
    net(pair(z))
    return net.running_mean[0] * 10


@way(WRITES)
def vector_of_spectral_norm(z):
    net = nn.utils.spectral_norm(nn.Linear(2, 2, bias=False))
    net.weight_u = torch.tensor([1.0, 0.0])
    with torch.no_grad():
        net.weight_orig.copy_(torch.tensor([[1.0, 2.0], [0.5, -1.0]]) + z * torch.tensor([[2.0, 0.0], [1.0, 1.0]]))
    net(torch.ones(2))
    return net.weight_u[0] * 1.0


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("held", torch.zeros(()))
        self.count = 0

    def forward(self, x):
        self.held.copy_(x)
        self.count = int(x.item()) + 1
        return x


@way(WRITES)
def buffer_of_a_scripted_module(z):
    net = torch.jit.script(Remembers())
    net(z)
    return net.held * 1.0


@way(WRITES)
def attribute_of_a_scripted_module(z):
    net = torch.jit.script(Remembers())
    net(z)
    return number(net.count)


@way(WRITES)
def loaded_state(z):
    net = nn.Linear(1, 1)
    net.load_state_dict({"weight": z.reshape(1, 1), "bias": torch.zeros(1)})
    return net.weight[0, 0].detach() * 1.0


@way(WRITES)
def swapped_tensors(z):
    w, mine = torch.zeros(()), z * 2
    torch.utils.swap_tensors(w, mine)
    return w * 1.0


# Sizes that come from values.


def sizes(name, make):
    SIZES[name] = lambda z: number(make(z))


def whole(z):
    return z.long() + 1


_iota = torch.ops.prims.iota


sizes("zeros", lambda z: torch.zeros(whole(z)).numel())
sizes("ones_of_a_tuple", lambda z: torch.ones((2, whole(z))).numel())
sizes("full", lambda z: torch.full((whole(z),), 1.0).numel())
sizes("empty_by_keyword", lambda z: torch.empty(size=(whole(z),)).numel())
sizes("rand", lambda z: torch.rand(whole(z)).numel())
sizes("eye", lambda z: torch.eye(whole(z)).numel())
sizes("arange", lambda z: torch.arange(whole(z)).numel())
sizes("iota", lambda z: _iota(whole(z), start=0, step=1, dtype=torch.long, device="cpu", requires_grad=False).numel())
sizes("arange_from", lambda z: torch.arange(0, 2, whole(z)).numel())
sizes("linspace", lambda z: torch.linspace(0, 1, whole(z)).numel())
sizes("randperm", lambda z: torch.randperm(whole(z)).numel())
sizes("tril_indices", lambda z: torch.tril_indices(whole(z), 1).numel())
sizes("new_zeros", lambda z: table().new_zeros(whole(z)).numel())
sizes("reshape", lambda z: torch.ones(2).reshape(whole(z), -1).shape[0])
sizes("reshape_to_a_second_size", lambda z: torch.ones(2).reshape(-1, whole(z)).shape[0])
sizes("view_by_keyword", lambda z: torch.ones(2).view(size=(whole(z), -1)).shape[0])
sizes("expand", lambda z: torch.ones(1).expand(whole(z)).numel())
sizes("repeat", lambda z: torch.ones(1).repeat(whole(z)).numel())
sizes("tile", lambda z: torch.tile(torch.ones(1), (whole(z),)).numel())
sizes("narrow", lambda z: table().narrow(0, 0, whole(z)).numel())
sizes("slice", lambda z: table()[: whole(z)].numel())
sizes("slice_of_what_is_tracked", lambda z: torch.stack([z, z])[: whole(z)].numel())
sizes("split", lambda z: len(torch.ones(2).split(whole(z))))
sizes("split_of_what_is_tracked", lambda z: len(z.expand(2).split(whole(z))))
sizes("split_into", lambda z: torch.ones(3).split([whole(z), 2 - z.long()])[0].numel())
sizes("chunk", lambda z: len(torch.ones(2).chunk(whole(z))))
sizes("tensor_split", lambda z: torch.ones(3).tensor_split(whole(z).reshape(1))[0].numel())
sizes("tensor_split_by", lambda z: len(torch.ones(3).tensor_split(whole(z))))
sizes(
    "tensor_split_by_keyword",
    lambda z: torch.ones(3).tensor_split(tensor_indices_or_sections=whole(z).reshape(1))[0].numel(),
)
sizes(
    "tensor_split_by_the_operator",
    lambda z: torch.ops.aten.tensor_split.tensor_indices_or_sections(torch.ones(3), whole(z).reshape(1))[0].numel(),
)
sizes("pad", lambda z: F.pad(table(), (0, z.long())).numel())
sizes("pad_by_keyword", lambda z: F.pad(table(), pad=[z.long(), 0]).numel())
sizes("one_hot", lambda z: F.one_hot(z.long()).shape[-1])
sizes("one_hot_of", lambda z: F.one_hot(torch.tensor(0), whole(z)).shape[-1])
sizes("interpolate", lambda z: F.interpolate(torch.ones(1, 1, 2), size=whole(z)).numel())
sizes("pooled", lambda z: F.adaptive_avg_pool1d(torch.ones(1, 1, 4), (whole(z),)).numel())
sizes("stride_of_a_pool", lambda z: F.max_pool1d(torch.ones(1, 1, 4), 1, whole(z)).numel())
sizes("unfold", lambda z: torch.ones(3).unfold(0, 1, whole(z)).numel())
sizes("dimension_of_a_sum", lambda z: torch.ones(2, 3).sum(z.long()).numel())
sizes("dimensions_of_a_sum_in_a_list", lambda z: torch.ones(2, 3).sum([z.long()]).numel())
sizes("dimension_unsqueezed", lambda z: torch.ones(2).unsqueeze(z.long()).shape[0])
sizes("permute", lambda z: torch.ones(2, 3).permute(z.long(), 1 - z.long()).shape[0])
sizes("transpose", lambda z: torch.ones(2, 3).transpose(0, z.long()).shape[0])
sizes("tensordot", lambda z: torch.tensordot(torch.ones(2, 2), torch.ones(2, 2), dims=whole(z)).numel())
sizes(
    "ctc_loss",
    lambda z: torch.ops.aten._ctc_loss.Tensor(
        torch.zeros(4, 1, 3), torch.ones(1, 2).long(), whole(one()).reshape(1), whole(z).reshape(1)
    )[1].numel(),
)
sizes("diagonal", lambda z: torch.ones(2, 2).diagonal(z.long()).numel())
sizes("vander", lambda z: torch.vander(torch.ones(2), whole(z)).numel())
sizes("offset_of_a_view", lambda z: table()[z.long()].storage_offset())
sizes("strides", lambda z: torch.ones(4).as_strided((2,), (whole(z),)).stride(0))
sizes("list_of_switches", lambda z: torch.ones(2)[[z.bool(), True]].numel())
sizes("mask", lambda z: torch.ones(2)[torch.stack([z > 0, z < 2])].numel())
sizes("combinations", lambda z: torch.combinations(torch.ones(3), whole(z)).numel())
sizes(
    "packed", lambda z: nn.utils.rnn.pack_padded_sequence(torch.ones(1, 2, 1), whole(z).reshape(1), True).data.numel()
)
sizes("padded_back", lambda z: nn.utils.rnn.pad_sequence([torch.ones(int(whole(z)))]).numel())
sizes("nested", lambda z: torch.nested.nested_tensor([torch.ones(int(whole(z)))]).to_padded_tensor(0.0).numel())
sizes("range_of_python", lambda z: len(range(whole(z))))
sizes("rank_of_a_solution", lambda z: torch.linalg.lstsq(torch.eye(2) * z, torch.ones(2, 1), driver="gelsd").rank + 1)
sizes("stacked_by_python", lambda z: torch.stack([one()] * whole(z)).numel())
sizes("bit_length", lambda z: (3 * whole(z)).__index__().bit_length())


# Code of a user's that torch calls with plain tensors in the middle of an operation.


@way(CALLS)
def hook_on_saved_tensors(z):
    seen = []
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        leaf() * z
    return seen[-1] * 1.0


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


# Memory reached by its address.


@way(POINTERS)
def data_ptr(z):
    kind = ctypes.c_double if z.dtype is torch.float64 else ctypes.c_float
    return number(kind.from_address(z.data_ptr()).value)


@way(POINTERS)
def untyped_storage(z):
    return torch.tensor([]).set_(z.clone().untyped_storage())[0] * 1.0


@way(POINTERS)
def typed_storage(z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return number(z.clone().storage()[0])


@way(POINTERS)
def dlpack(z):
    return torch.from_dlpack(z.reshape(1))[0] * 1.0


@way(POINTERS)
def dlpack_of_a_method(z):
    return torch.utils.dlpack.from_dlpack(z.reshape(1).__dlpack__())[0] * 1.0


@way(POINTERS)
def array(z):
    return torch.from_numpy(np.asarray(z.reshape(1)).copy())[0]


@way(POINTERS)
def address_of_the_tensor(z):
    assert isinstance(z._cdata, int)
    return z * 1.0


# What the results carry: nothing leaves, and what does not depend on the choice is not taken to.

CARRIED["reshaped"] = lambda z: z.reshape(1).expand(3).sum()
CARRIED["operator"] = lambda z: torch.ops.aten.mul.Tensor(z, one() * 2)
CARRIED["linear"] = lambda z: F.linear(z.reshape(1), torch.full((1, 1), 2.0))[0]
CARRIED["gathered"] = lambda z: table().gather(0, z.long().reshape(1))[0]
CARRIED["selected"] = lambda z: table().index_select(0, z.long().reshape(1))[0]
CARRIED["maximum_of_two"] = lambda z: torch.max(z, one() * 0.5)
CARRIED["clamped"] = lambda z: torch.clamp(z, min=one() * 0.2)
CARRIED["softmax"] = lambda z: F.softmax(torch.stack([z, one()]), 0)[0]
CARRIED["cross_entropy"] = lambda z: F.cross_entropy(table().reshape(1, 2), z.long().reshape(1))
CARRIED["layer_norm"] = lambda z: F.layer_norm(torch.stack([z, one() * 0.3]), (2,))[0]
CARRIED["evaluated_norm"] = lambda z: nn.BatchNorm1d(1).requires_grad_(False).eval()(pair(z))[0, 0]
CARRIED["einsum"] = lambda z: torch.einsum("i,i->", torch.stack([z, one()]), table())
CARRIED["lstm"] = lambda z: _lstm(z)
CARRIED["convolved"] = lambda z: F.conv1d(z.reshape(1, 1, 1), torch.full((1, 1, 1), 2.0)).sum()
CARRIED["factor"] = lambda z: torch.linalg.cholesky(torch.eye(2) * (z + 1))[0, 0]
CARRIED["in_a_plate"] = lambda z: _with_blocks(z)
CARRIED["copied"] = copy.deepcopy
CARRIED["reflected"] = lambda z: 2 - z


def _lstm(z):
    torch.manual_seed(0)
    return nn.LSTM(1, 1).requires_grad_(False)(z.reshape(1, 1, 1))[0].sum()


class _Timer:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


def _with_blocks(z):
    with torch.no_grad(), _Timer(), contextlib.nullcontext():
        return table()[z.long()]
