"""Functions of a value with a plate along one dimension, by what they do to it; the answers were found by hand.

Unless a case says otherwise the value is `[3, 4]`, the plate is the first dimension, and so it is in the result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

torch.manual_seed(0)


@dataclass(frozen=True)
class Case:
    """A function, the shape of its argument, the plate's dimension in it, and in the result (default: the first)."""

    function: Callable[[Tensor], Tensor]
    shape: tuple[int, ...] = (3, 4)
    dim: int = -2
    out: int | None = None


def layer(module: nn.Module, *shape: int, train: bool = True, out: int | None = None) -> Case:
    """A layer, the plate the first dimension of its input."""

    def function(z: Tensor) -> Tensor:
        result = module.to(z.dtype).train(train)(z)
        return result[0] if isinstance(result, tuple) else result

    return Case(function, shape or (3, 4), -len(shape or (3, 4)), out)


class Attention(nn.Module):
    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.inner, self.weights = nn.MultiheadAttention(4, 2, batch_first=True), weights

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=self.weights)[0]


def outer(z: Tensor) -> Tensor:
    return z.unsqueeze(-1) * z.unsqueeze(-2)


def eye(z: Tensor) -> Tensor:
    return torch.eye(4, dtype=z.dtype)


def columns(z: Tensor) -> Tensor:
    made = torch.zeros(3, 2, dtype=z.dtype)
    made[:, 0] = z[:, 1]
    made[:, 1] = z[:, 0] * 2
    return made


def half(z: Tensor) -> Tensor:
    made = z.clone()
    made.chunk(2, -1)[0].add_(made.chunk(2, -1)[1].exp())
    return made


def put(z: Tensor) -> Tensor:
    made = z.clone()
    made[z > 0.5] = 0.0
    return made


def turned(z: Tensor) -> Tensor:
    made = z.clone()
    return made.t_().exp_().t_()


def written_by_out(z: Tensor) -> Tensor:
    made = torch.empty_like(z)
    torch.mul(z, 2.0, out=made)
    return made


@torch.jit.script
def scripted(z: Tensor) -> Tensor:
    return z + z.sum()


class Accumulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z.cumsum(0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def rows_reversed(z: Tensor) -> Tensor:
    made = torch.zeros(3, 4)
    for i in range(3):
        made[i] = z[2 - i]
    return made


ELEMENTWISE = {
    "exp": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "round": torch.round,
    "sign": torch.sign,
    "abs": torch.abs,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "elu": F.elu,
    "isfinite": torch.isfinite,
}

APART: dict[str, Case] = {
    **{name: Case(function) for name, function in ELEMENTWISE.items()},
    "plus": Case(lambda z: z + torch.arange(4.0).to(z)),
    "minus_itself": Case(lambda z: z - z.sin()),
    "where": Case(lambda z: torch.where(z > 0.5, z, -z)),
    "clamp": Case(lambda z: z.clamp(0.2, 0.8)),
    "masked_fill": Case(lambda z: z.masked_fill(z > 0.5, 0.0)),
    "mask_put": Case(put),
    "to_long": Case(lambda z: z.long()),
    "sum_event": Case(lambda z: z.sum(-1)),
    "mean_event": Case(lambda z: z - z.mean(-1, keepdim=True)),
    "max_event": Case(lambda z: z.max(-1).values),
    "argmax_event": Case(lambda z: z.argmax(-1)),
    "logsumexp_event": Case(lambda z: z.logsumexp(-1)),
    "var_event": Case(lambda z: z.var(-1)),
    "norm_event": Case(lambda z: F.normalize(z, dim=-1)),
    "prod_event": Case(lambda z: z.prod(-1)),
    "any_event": Case(lambda z: (z > 0.5).any(-1)),
    "softmax_event": Case(lambda z: z.softmax(-1)),
    "cumsum_event": Case(lambda z: z.cumsum(-1)),
    "sort_event": Case(lambda z: z.sort(-1).values),
    "topk_event": Case(lambda z: z.topk(2, -1).values),
    "flip_event": Case(lambda z: z.flip(-1)),
    "roll_event": Case(lambda z: z.roll(1, -1)),
    "diff_event": Case(lambda z: z.diff(dim=-1)),
    "quantile_event": Case(lambda z: z.quantile(0.3, dim=-1)),
    "fft_event": Case(lambda z: torch.fft.rfft(z).abs()),
    "there_and_back": Case(lambda z: z.T.exp().T),
    "turned_in_place": Case(turned),
    "folded_and_back": Case(lambda z: z.reshape(-1).exp().reshape(3, 4)),
    "unflatten": Case(lambda z: z.unflatten(-1, (2, 2))),
    "new_dim": Case(lambda z: z.unsqueeze(1)),
    "moved_at_the_end": Case(lambda z: z.movedim(0, -1), out=-1),
    "split": Case(lambda z: z.split(2, -1)[0] * z.chunk(2, -1)[1]),
    "unbound": Case(lambda z: torch.stack([c * 2 for c in z.unbind(-1)], -1)),
    "cat_event": Case(lambda z: torch.cat([z, z.exp()], -1)),
    "stacked": Case(lambda z: torch.stack([z, z.exp()]).sum(0)),
    "repeat_event": Case(lambda z: z.repeat(1, 2)),
    "expanded": Case(lambda z: z.expand(2, 3, 4), out=-2),
    "pad_event": Case(lambda z: F.pad(z, (1, 2))),
    "tril": Case(lambda z: outer(z).tril()),
    "diagonal": Case(lambda z: outer(z).diagonal(dim1=-1, dim2=-2)),
    "matrix": Case(lambda z: z @ torch.ones(4, 2).to(z)),
    "outer": Case(outer),
    "bmm": Case(lambda z: outer(z) @ outer(z)),
    "einsum": Case(lambda z: torch.einsum("bi,ij,bj->b", z, eye(z), z)),
    "vector": Case(lambda z: z @ torch.ones(4).to(z)),
    "inner": Case(lambda z: (z.unsqueeze(-2) @ z.unsqueeze(-1)).squeeze(-1).squeeze(-1)),
    "from_the_left": Case(lambda z: (torch.ones(2, 4).to(z) @ z.T).T),
    "cholesky": Case(lambda z: torch.linalg.cholesky(outer(z) + eye(z))),
    "solve": Case(lambda z: torch.linalg.solve(outer(z) + eye(z), z)),
    "logdet": Case(lambda z: torch.logdet(outer(z) + eye(z))),
    "eigh": Case(lambda z: torch.linalg.eigvalsh(outer(z))),
    "solve_triangular": Case(lambda z: torch.linalg.solve_triangular(eye(z), z.T, upper=True).T),
    "solve_from_the_right": Case(lambda z: torch.linalg.solve_triangular(eye(z), z, upper=True, left=False)),
    "cholesky_solve": Case(lambda z: torch.cholesky_solve(z.T, eye(z)).T),
    "inv": Case(lambda z: torch.linalg.inv(outer(z) + eye(z))),
    "matrix_exp": Case(lambda z: torch.matrix_exp(outer(z))),
    "cdist_event": Case(lambda z: torch.cdist(z.unsqueeze(-1), z.unsqueeze(-1))),
    "table": Case(lambda z: torch.arange(8.0).to(z).reshape(4, 2)[(z > 0.5).long()]),
    "table_of_two": Case(lambda z: torch.arange(8.0).to(z).reshape(4, 2)[(z > 0.5).long(), (z > 0.7).long()]),
    "embedding": Case(lambda z: F.embedding((z > 0.5).long(), torch.ones(2, 5).to(z))),
    "one_hot": Case(lambda z: F.one_hot((z > 0.5).long(), 2)),
    "gather_event": Case(lambda z: z.gather(-1, (z > 0.5).long())),
    "scatter_event": Case(lambda z: z.scatter(-1, (z > 0.5).long(), z.exp())),
    "index_event": Case(lambda z: z[:, torch.tensor([2, 0])]),
    "bucketize": Case(lambda z: torch.bucketize(z, torch.tensor([0.3, 0.6]).to(z))),
    "columns": Case(columns),
    "half_in_place": Case(half),
    "out": Case(written_by_out),
    "strided": Case(lambda z: z.contiguous().as_strided((3, 2), (4, 2))),
    "data": Case(lambda z: z.exp().data),
    "detached": Case(lambda z: z.detach().exp_()),
    "vmap": Case(lambda z: torch.vmap(lambda a: a - a.sum())(z)),
    "vmap_grad": Case(lambda z: torch.vmap(torch.func.grad(lambda a: (a**3).sum()))(z)),
    "jvp": Case(lambda z: torch.func.jvp(torch.sin, (z,), (torch.ones_like(z),))[1]),
    "normal": Case(lambda z: torch.distributions.Independent(torch.distributions.Normal(z, z.exp()), 1).log_prob(z)),
    "categorical": Case(lambda z: torch.distributions.Categorical(logits=z).log_prob(torch.tensor(1))),
    "multivariate": Case(lambda z: torch.distributions.MultivariateNormal(z, eye(z)).log_prob(z.exp())),
    "dirichlet": Case(lambda z: torch.distributions.Dirichlet(z.exp()).log_prob(z.softmax(-1))),
    "cross_entropy": Case(lambda z: F.cross_entropy(z, torch.tensor([1, 2, 0]), reduction="none")),
    "binary_entropy": Case(lambda z: F.binary_cross_entropy(z.sigmoid(), z.sigmoid(), reduction="none")),
    "linear": layer(nn.Linear(4, 5)),
    "linear_of_three": layer(nn.Linear(4, 5), 3, 2, 4),
    "mlp": layer(nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.LayerNorm(8), nn.Linear(8, 2))),
    "layer_norm": layer(nn.LayerNorm(4)),
    "rms_norm": layer(nn.RMSNorm(4)),
    "group_norm": layer(nn.GroupNorm(2, 4), 3, 4, 5),
    "instance_norm": layer(nn.InstanceNorm1d(4), 3, 4, 5),
    "batch_norm_eval": layer(nn.BatchNorm1d(4), train=False),
    "conv": layer(nn.Conv2d(2, 3, 3), 3, 2, 5, 5),
    "conv_transposed": layer(nn.ConvTranspose1d(2, 3, 3), 3, 2, 5),
    "conv_of_channels": Case(lambda z: F.conv1d(z.reshape(-1, 1, 4), torch.ones(1, 1, 3).to(z)).reshape(3, 2)),
    "max_pool": layer(nn.MaxPool2d(2), 3, 2, 4, 4),
    "average_pool": layer(nn.AdaptiveAvgPool2d(2), 3, 2, 5, 5),
    "upsample": layer(nn.Upsample(scale_factor=2, mode="bilinear"), 3, 2, 3, 3),
    "pixel_shuffle": layer(nn.PixelShuffle(2), 3, 4, 3, 3),
    "unfold": layer(nn.Unfold(2), 3, 2, 4, 4),
    "gru": layer(nn.GRU(4, 3, 2, batch_first=True), 3, 5, 4),
    "lstm": layer(nn.LSTM(4, 3, batch_first=True, bidirectional=True), 3, 5, 4),
    "rnn_cell": layer(nn.RNNCell(4, 3)),
    "gru_cell": layer(nn.GRUCell(4, 3)),
    "attention": layer(Attention(False), 3, 5, 4),
    "attention_weights": layer(Attention(True), 3, 5, 4),
    "transformer": layer(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True), 3, 5, 4),
    "transformer_eval": layer(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 3, 5, 4, train=False),
    "bilinear": Case(lambda z: F.bilinear(z, z.sin(), torch.ones(2, 4, 4).to(z))),
    "grid": Case(lambda z: F.grid_sample(z[:, None, None, :], z[:, :2].tanh()[:, None, None, :], align_corners=False)),
    "weight_norm": layer(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
    "second_dimension": Case(lambda z: z.softmax(-1).sum(-3), (2, 3, 4), -2, -2),
    "encoder": layer(nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), 3, 1, 4, 4),
    "repeat_interleave_event": Case(lambda z: z.repeat_interleave(2, -1)),
}

MIXES: dict[str, Case] = {
    "sum": Case(lambda z: z + z.sum()),
    "sum_plate": Case(lambda z: z + z.sum(0)),
    "mean": Case(lambda z: z - z.mean(0)),
    "max": Case(lambda z: z - z.amax(0, keepdim=True)),
    "argmax": Case(lambda z: z + z.argmax(0)),
    "var": Case(lambda z: z / z.var(0)),
    "norm": Case(lambda z: z / z.norm()),
    "prod": Case(lambda z: z * z.prod(0)),
    "all": Case(lambda z: z * (z > 0.5).all(0)),
    "median": Case(lambda z: z - z.median(0).values),
    "logsumexp": Case(lambda z: z - z.logsumexp(0)),
    "softmax": Case(lambda z: z.softmax(0)),
    "log_softmax": Case(lambda z: z.log_softmax(0)),
    "cumsum": Case(lambda z: z.cumsum(0)),
    "cumprod": Case(lambda z: z.cumprod(-2)),
    "cummax": Case(lambda z: z.cummax(0).values),
    "sort": Case(lambda z: z.sort(0).values),
    "argsort": Case(lambda z: z.argsort(0)),
    "topk": Case(lambda z: z.topk(3, 0).values),
    "flip": Case(lambda z: z.flip(0)),
    "roll": Case(lambda z: z.roll(1, 0)),
    "roll_flat": Case(lambda z: z.roll(1)),
    "rot90": Case(lambda z: z[:, :3].rot90()),
    "diff": Case(lambda z: z.diff(dim=0, prepend=z[:1])),
    "fft": Case(lambda z: torch.fft.fft(z, dim=0).abs()),
    "transposed": Case(lambda z: z[:, :3].T),
    "meets_itself": Case(lambda z: z[:, :1] + z[:, 0]),
    "pairs": Case(lambda z: (z.unsqueeze(0) - z.unsqueeze(1)).sum(-1)),
    "first": Case(lambda z: z + z[0]),
    "first_kept": Case(lambda z: z + z[:1]),
    "shifted": Case(lambda z: torch.cat([z[1:], z[:1]])),
    "cat": Case(lambda z: torch.cat([z, z])[:3]),
    "unbound": Case(lambda z: torch.stack(z.unbind(0)[::-1])),
    "chunks": Case(lambda z: torch.cat(z.split(1)[::-1])),
    "permuted": Case(lambda z: z[torch.tensor([1, 2, 0])]),
    "index_select": Case(lambda z: z.index_select(0, torch.tensor([2, 1, 0]))),
    "gather": Case(lambda z: z.gather(0, torch.ones(3, 4, dtype=torch.long))),
    "scatter": Case(lambda z: z.scatter(0, torch.ones(3, 4, dtype=torch.long), z)),
    "scatter_add": Case(lambda z: torch.zeros(3, 4).scatter_add(0, torch.zeros(3, 4, dtype=torch.long), z)),
    "index_add": Case(lambda z: z.index_add(0, torch.tensor([0, 1, 1]), z)),
    "look_itself_up": Case(lambda z: z[(z[:, 0] > 0.5).long()]),
    "matrix": Case(lambda z: torch.ones(3, 3) @ z),
    "gram": Case(lambda z: z @ z.T),
    "covariance": Case(lambda z: z @ (z.T @ z)),
    "einsum": Case(lambda z: torch.einsum("bi,cj->ci", z, z)),
    "bmm": Case(lambda z: torch.bmm(torch.ones(1, 3, 3).to(z), z.unsqueeze(0))[0]),
    "solve": Case(lambda z: torch.linalg.solve(torch.ones(3, 3).to(z) + torch.eye(3).to(z), z)),
    "nested": Case(lambda z: torch.nested.nested_tensor([z[0], z[1], z[2]]).to_padded_tensor(0.0)),
    "scripted": Case(lambda z: scripted(z)),
    "autograd_function": Case(lambda z: z + Accumulated.apply(z)),
    "checkpoint": Case(lambda z: torch.utils.checkpoint.checkpoint(lambda a: a + a.sum(0), z, use_reentrant=False)),
    "parameter": Case(lambda z: nn.Parameter(z.detach() + z.detach().sum(0)) * 1),
    "rows_in_a_loop": Case(lambda z: rows_reversed(z)),
    "take": Case(lambda z: z.take(torch.arange(12).reshape(3, 4).flip(0))),
    "renorm": Case(lambda z: z.renorm(2, 1, 1.0)),
    "correlations": Case(lambda z: torch.corrcoef(z)),
    "wrong_unfolding": Case(lambda z: z.expand(5, 3, 4).reshape(15, 4).exp().reshape(3, 5, 4)[:, 0]),
    "trace": Case(lambda z: z * z[:, :3].trace()),
    "dot": Case(lambda z: z * (z[:, 0] @ z[:, 1])),
    "cdist": Case(lambda z: torch.cdist(z, z)),
    "outer_sum": Case(lambda z: torch.outer(z[:, 0], z[:, 1]).sum(0)),
    "attention": Case(lambda z: F.scaled_dot_product_attention(z, z, z)),
    "batch_norm": layer(nn.BatchNorm1d(4)),
    "batch_norm_2d": layer(nn.BatchNorm2d(2), 3, 2, 4, 4),
    "layer_norm": Case(lambda z: F.layer_norm(z, (3, 4))),
    "group_norm": Case(lambda z: F.group_norm(z.unsqueeze(0), 1)[0]),
    "conv": Case(lambda z: F.conv1d(z.T.unsqueeze(0), torch.ones(4, 4, 3), padding=1)[0].T),
    "gru": layer(nn.GRU(4, 4), 3, 2, 4),
    "lstm": layer(nn.LSTM(4, 4), 3, 2, 4),
    "pool": Case(lambda z: F.avg_pool1d(z.T, 3, 1, 1).T),
    "pad": Case(lambda z: F.pad(z, (0, 0, 1, 0))[:3]),
    "reshaped": Case(lambda z: z.reshape(4, 3).sum(0)),
    "flattened": Case(lambda z: z.flatten().cumsum(0).reshape(3, 4)),
    "unfolded": Case(lambda z: F.pad(z, (0, 0, 0, 1)).unfold(0, 2, 1).sum(-1)),
    "repeated": Case(lambda z: z.repeat(2, 1)[:3]),
    "mean_loss": Case(lambda z: z * F.mse_loss(z, z.exp())),
    "cross_entropy": Case(lambda z: z + F.cross_entropy(z, torch.tensor([1, 2, 0]))),
    "nested_sum": Case(lambda z: (z + z.mean(0)).softmax(-1)),
    "one_row_written": Case(lambda z: torch.zeros(3, 4).index_put_((torch.tensor([0]),), z[1:2])),
    "vmap_wrong": Case(lambda z: torch.vmap(lambda a: a - a.sum(), in_dims=1, out_dims=1)(z)),
    "broadcast_unaligned": Case(lambda z: torch.ones(3, 3) * z[:, 0], out=-2),
    "searched": Case(lambda z: torch.searchsorted(z[:, 0].contiguous(), z)),
    "instance_norm_wrong": Case(lambda z: F.instance_norm(z.T.unsqueeze(0))[0].T),
    "encoder_over_plate": layer(nn.TransformerEncoderLayer(4, 2, 8, batch_first=False), 3, 2, 4),
    "running_mean": Case(lambda z: _running(z)),
    "logdet": Case(lambda z: z * torch.logdet(z.T @ z + eye(z))),
    "interpolated": Case(lambda z: F.interpolate(z.T.unsqueeze(0), size=3, mode="linear")[0].T),
    "combined_in_place": Case(lambda z: z.clone().add_(z.sum(0))),
    "out": Case(lambda z: torch.cumsum(z, 0, out=torch.empty(3, 4))),
}


def _running(z: Tensor) -> Tensor:
    mean, variance = torch.zeros(4), torch.ones(4)
    F.batch_norm(z, mean, variance, training=True)
    return z - mean


@torch.library.custom_op("varigrad_tests::opaque", mutates_args=())
def opaque(z: Tensor) -> Tensor:
    return z.flip(0)


UNKNOWN: dict[str, Case] = {
    "custom_operator": Case(lambda z: z + opaque(z)),
    "foreach": Case(lambda z: torch._foreach_mul([z], 2.0)[0]),
    "embedding_bag": Case(lambda z: F.embedding_bag((z > 0.5).long(), torch.ones(2, 5))),
    "item": Case(lambda z: z * z[0, 0].item() if z[0, 0].item() > 5 else z + z.sum().sign().item() * 0 + z),
    "nonzero": Case(lambda z: z + len(z.nonzero())),
    "resized": Case(lambda z: z.clone().resize_(3, 4)),
    "sparse": Case(lambda z: z.to_sparse().to_dense()),
    "overlapping_write": Case(lambda z: _overlapping(z)),
    "nested_data": Case(lambda z: torch.nested.as_nested_tensor(z.detach()).to_padded_tensor(0.0)),
    "sparse_data": Case(lambda z: torch.sparse.mm(torch.ones(3, 3).to_sparse(), z)),
    "least_squares": Case(lambda z: torch.linalg.lstsq(outer(z) + eye(z), z.unsqueeze(-1)).solution),
    "packed": Case(lambda z: nn.utils.rnn.pack_sequence([z]).data),
}


def _overlapping(z: Tensor) -> Tensor:
    made = z.clone()
    made[:, 1:].copy_(made.as_strided((3, 3), (4, 1)))
    return made
