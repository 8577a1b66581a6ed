"""Sizes that come from values."""

import torch
import torch.nn.functional as F
from torch import nn

from leaks.base import SIZES, number, one, table


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
sizes("unfold", lambda z: torch.ones(3).unfold(0, 1, whole(z)).numel())
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
if torch.ones(2, 3).sum(torch.tensor(0)).dim():  # torch 2.9 takes a tensor in the place of a list for an empty list
    sizes("stride_of_a_pool", lambda z: F.max_pool1d(torch.ones(1, 1, 4), 1, whole(z)).numel())
    sizes("dimension_of_a_sum", lambda z: torch.ones(2, 3).sum(z.long()).numel())
