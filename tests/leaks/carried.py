"""What the results carry: nothing leaves, and what does not depend on the choice is not taken to."""

import contextlib
import copy

import torch
import torch.nn.functional as F
from torch import nn

from leaks.base import CARRIED, one, pair, table

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
