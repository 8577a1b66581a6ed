"""Writes that the version counters, the order or the names of the arguments hide."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import vmap

from leaks.base import WRITES, number, pair, way


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
