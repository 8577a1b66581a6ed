"""The table of rules: maps torch operations, by their name in `aten` without the in-place suffix, to rules.

Operations that torch tags as pointwise need no entry. Operations in no list here have no rule, and give "unknown".
"""

from __future__ import annotations

import torch

from varigrad._torch_internals import OpOverload, schema_of_operator
from varigrad.terms.independence import layer_rules as layers
from varigrad.terms.independence import rules as rules
from varigrad.terms.independence.rules import Rule, batched, rightmost

# Element by element, and not tagged so: copies, draws, masks, losses without a reduction.
_ELEMENTWISE = """_to_copy alias alias_copy bernoulli binomial complex copysign dequantize detach detach_copy
    float_power floor_divide glu_jvp hardswish isposinf isneginf lift lift_fresh lift_fresh_copy log_sigmoid_forward
    logical_and masked_fill native_dropout normal _fused_dropout _conj _neg_view conj_physical poisson polar
    _prelu_kernel rand_like randint_like randn_like relu6 resolve_conj resolve_neg rrelu_with_noise
    special_log_ndtr special_ndtr special_xlog1py special_xlogy _standard_gamma tril triu zeros_like
    ones_like full_like empty_like _efficientzerotensor bitwise_and __and__ __or__ __xor__ __lshift__
    __rshift__ __iand__ __ior__ __ixor__ __ilshift__ __irshift__ where clamp clip contiguous to isreal real
    imag _standard_gamma_grad nan_to_num logical_xor logical_or softplus fmin fmax gcd lcm expand
    expand_copy broadcast_to repeat _conj_copy pin_memory _cast_Float _cast_Double bitwise_left_shift
    bitwise_right_shift special_i0 special_erf type_as""".split()  # noqa: SIM905

# What was in the tensor before does not matter.
_OVERWRITTEN = "cauchy copy exponential fill geometric log_normal random uniform zero".split()  # noqa: SIM905

_NOTHING = """new_empty new_zeros new_ones new_full new_empty_strided empty_strided _assert_async
    _functional_assert_async _assert_tensor_metadata _linalg_check_errors""".split()  # noqa: SIM905

_ALONG = """softmax _softmax log_softmax _log_softmax _safe_softmax cumsum cumprod logcumsumexp cummax cummin sort topk
    msort argsort flip glu linalg_cross cross _fft_r2c _fft_c2r _fft_c2c""".split()  # noqa: SIM905

_REDUCING = """sum nansum mean nanmean amax amin aminmax argmax argmin max min any all prod logsumexp std std_mean var
    var_mean norm linalg_vector_norm count_nonzero median nanmedian mode kthvalue""".split()  # noqa: SIM905

_MIXING = """dot vdot trace _pdist_forward histc dist cov corrcoef masked_select nonzero _unique2 unique_dim
    unique_consecutive bincount equal masked_scatter put combinations _is_all_true _is_any_true""".split()  # noqa: SIM905

_LOSSES = """binary_cross_entropy mse_loss smooth_l1_loss huber_loss soft_margin_loss l1_loss kl_div
    binary_cross_entropy_with_logits""".split()  # noqa: SIM905

_BATCHED: dict[str, Rule] = {
    "cholesky": batched({"self": 2}, (2,)),
    "linalg_cholesky_ex": batched({"self": 2}, (2, 0)),
    "cholesky_inverse": batched({"self": 2}, (2,)),
    "cholesky_solve": layers.solving("self", batched({"self": 2, "input2": 2}, (2,))),
    "_cholesky_solve_helper": layers.solving("self", batched({"self": 2, "A": 2}, (2,))),
    "linalg_solve_triangular": layers.solving("B", batched({"self": 2, "B": 2}, (2,))),
    "triangular_solve": layers.solving("self", batched({"self": 2, "A": 2}, (2, 2))),
    "linalg_inv_ex": batched({"A": 2}, (2, 0)),
    "linalg_lu_factor_ex": batched({"A": 2}, (2, 1, 0)),
    "linalg_lu": batched({"A": 2}, (2, 2, 2)),
    "linalg_lu_solve": layers.solving("B", batched({"LU": 2, "pivots": 1, "B": 2}, (2,))),
    "lu_unpack": batched({"LU_data": 2, "LU_pivots": 1}, (2, 2, 2)),
    "_linalg_det": batched({"A": 2}, (0, 2, 1)),
    "_linalg_slogdet": batched({"A": 2}, (0, 0, 2, 1)),
    "_linalg_eigh": batched({"A": 2}, (1, 2)),
    "linalg_eig": batched({"self": 2}, (1, 2)),
    "linalg_eigvals": batched({"self": 2}, (1,)),
    "_linalg_eigvals": batched({"self": 2}, (1,)),
    "_linalg_svd": batched({"A": 2}, (2, 1, 2)),
    "linalg_qr": batched({"A": 2}, (2, 2)),
    "_linalg_solve_ex": layers.linear_solve,
    "linalg_pinv": batched({"self": 2}, (2,)),
    "linalg_matrix_exp": batched({"self": 2}, (2,)),
    "linalg_householder_product": batched({"input": 2, "tau": 1}, (2,)),
    "_sample_dirichlet": batched({"self": 1}, (1,)),
    "multinomial": batched({"self": 1}, (1,)),
    "_thnn_fused_lstm_cell": batched({"input_gates": 1, "hidden_gates": 1, "cx": 1}, (1, 1, 1)),
    "_thnn_fused_gru_cell": batched({"input_gates": 1, "hidden_gates": 1, "hx": 1}, (1, 1)),
    "pixel_shuffle": batched({"self": 3}, (3,)),
    "pixel_unshuffle": batched({"self": 3}, (3,)),
    "channel_shuffle": layers.leading,
    "native_channel_shuffle": layers.leading,
    "affine_grid_generator": layers.leading,
    "im2col": layers.image_columns,
    "col2im": layers.image_columns,
}

_CONVOLUTIONS = """convolution _convolution mkldnn_convolution _slow_conv2d_forward thnn_conv2d slow_conv3d
    slow_conv3d_forward _conv_depthwise2d conv_depthwise3d cudnn_convolution cudnn_convolution_transpose
    miopen_convolution convolution_overrideable""".split()  # noqa: SIM905

_BATCH_NORMS = """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
    miopen_batch_norm _batch_norm_with_update _batch_norm_no_update _native_batch_norm_legit_functional
    _batch_norm_with_update_functional""".split()  # noqa: SIM905

_ATTENTION = """_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
    _scaled_dot_product_attention_math _scaled_dot_product_fused_attention_overrideable""".split()  # noqa: SIM905

_RIGHTMOST = {
    1: "max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d reflection_pad1d replication_pad1d "
    "upsample_nearest1d _upsample_nearest_exact1d upsample_linear1d",
    2: "max_pool2d_with_indices max_pool2d mkldnn_max_pool2d avg_pool2d adaptive_max_pool2d _adaptive_avg_pool2d "
    "adaptive_avg_pool2d mkldnn_adaptive_avg_pool2d fractional_max_pool2d reflection_pad2d replication_pad2d "
    "upsample_nearest2d _upsample_nearest_exact2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa max_unpool2d",
    3: "max_pool3d_with_indices avg_pool3d adaptive_max_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d "
    "fractional_max_pool3d reflection_pad3d replication_pad3d upsample_nearest3d _upsample_nearest_exact3d "
    "upsample_trilinear3d max_unpool3d",
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, rules.elementwise),
    **dict.fromkeys(_OVERWRITTEN, rules.overwritten),
    **dict.fromkeys(_NOTHING, rules.independent),
    **dict.fromkeys(_ALONG, rules.along),
    **dict.fromkeys(_REDUCING, rules.reducing),
    **dict.fromkeys(_MIXING, rules.mixing),
    **dict.fromkeys(_LOSSES, rules.loss),
    **dict.fromkeys(_CONVOLUTIONS, layers.convolution),
    **dict.fromkeys(_BATCH_NORMS, layers.batch_norm),
    **dict.fromkeys(_ATTENTION, layers.attention),
    **{name: rightmost(count) for count, names in _RIGHTMOST.items() for name in names.split()},
    **_BATCHED,
    "rot90": rules.along,
    "view": rules.view,
    **dict.fromkeys(("_unsafe_view", "_reshape_alias", "reshape", "view_copy", "_reshape_copy"), rules.reshape),
    **dict.fromkeys(("unsqueeze", "unsqueeze_copy", "stack", "_stack"), rules.unsqueeze),
    **dict.fromkeys(("squeeze", "squeeze_copy"), rules.squeeze),
    **dict.fromkeys(("permute", "permute_copy"), rules.permute),
    **dict.fromkeys(("transpose", "transpose_copy", "swapaxes", "swapdims"), rules.transpose),
    **dict.fromkeys(("t", "t_copy"), rules.matrix_transpose),
    **dict.fromkeys(("select", "select_copy", "unbind", "unbind_copy"), rules.select),
    **dict.fromkeys(("slice", "slice_copy"), rules.slice_),
    **dict.fromkeys(
        ("split", "split_with_sizes", "split_copy", "split_with_sizes_copy", "unsafe_split", "unsafe_chunk", "chunk",
         "unsafe_split_with_sizes"),
        rules.split,
    ),
    "diagonal": rules.diagonal,
    "diagonal_copy": rules.diagonal,
    "diag_embed": rules.diag_embed,
    "unfold": rules.unfold,
    "unfold_copy": rules.unfold,
    "cat": rules.cat,
    "roll": rules.roll,
    "constant_pad_nd": rules.constant_pad,
    "view_as_real": rules.view_as_real,
    "view_as_complex": rules.view_as_complex,
    "renorm": rules.renorm,
    "mm": rules.product("self", "mat2"),
    "bmm": rules.product("self", "mat2"),
    "addmm": rules.product("mat1", "mat2", "self"),
    "_addmm_activation": rules.product("mat1", "mat2", "self"),
    "baddbmm": rules.product("batch1", "batch2", "self"),
    "addbmm": rules.summed_product,
    "mv": rules.matrix_vector,
    "addmv": rules.matrix_vector,
    "addr": rules.outer,
    "_trilinear": rules.trilinear,
    "_cdist_forward": rules.distances,
    "_euclidean_dist": rules.distances,
    "index": layers.index,
    "_unsafe_index": layers.index,
    "index_put": layers.index_put,
    "_index_put_impl": layers.index_put,
    "_unsafe_index_put": layers.index_put,
    "index_select": layers.index_select,
    **dict.fromkeys(("index_add", "index_copy", "index_fill", "index_reduce"), layers.index_write),
    "gather": layers.gather,
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), layers.scatter),
    "select_scatter": layers.part_written,
    "slice_scatter": layers.part_written,
    "take": layers.take,
    "embedding": layers.embedding,
    "bucketize": layers.bucketize,
    "searchsorted": layers.searchsorted,
    "isin": layers.isin,
    "native_layer_norm": layers.layer_norm,
    "_fused_rms_norm": layers.layer_norm,
    "native_group_norm": layers.group_norm,
    "grid_sampler_2d": layers.grid_sampler,
    "grid_sampler_3d": layers.grid_sampler,
    "nll_loss_forward": layers.nll_loss,
    "nll_loss2d_forward": layers.nll_loss,
    "_transformer_encoder_layer_fwd": layers.encoder_layer,
    "_native_multi_head_attention": layers.encoder_layer,
    "mkldnn_rnn_layer": layers.recurrent_layer,
}  # fmt: skip


def name_of(func: OpOverload) -> str:
    """The operation's name without its namespace and without the mark of the in-place form."""
    name = schema_of_operator(func).name.split("::")[1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def rule_of(func: OpOverload) -> Rule | None:
    """The rule of an operation; None if there is none."""
    namespace = schema_of_operator(func).name.split("::")[0]
    if torch.Tag.pointwise in func.tags and namespace in ("aten", "prims"):
        return rules.elementwise
    return RULES.get(name_of(func)) if namespace == "aten" else None
