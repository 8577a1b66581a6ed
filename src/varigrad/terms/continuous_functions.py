"""List of torch functions that are continuous where they are defined.

A pathwise gradient misses jumps. A function that is neither here nor among those whose poles are tracked (`poles.py`)
may have one, so the plan names its calls as what its answer relies on. Functions that are known to jump are in
`discontinuous_operators.py`.
"""

# ruff: noqa: SIM905 - a list of words reads better as words
from __future__ import annotations

from torch import Tensor

from varigrad.terms.poles import WITH_POLES

_CONTINUOUS = frozenset(
    """H T mT mH t adjoint abs absolute acos acosh arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan
    atanh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addbmm addcmul addmm addmv addr affine_grid alias_copy alpha_dropout amax amin aminmax
    as_strided as_strided_copy as_strided_scatter atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d
    baddbmm bilinear binary_cross_entropy binary_cross_entropy_with_logits block_diag bmm broadcast_tensors
    broadcast_to cartesian_prod cat cdist cdouble celu cfloat chain_matmul chalf channel_shuffle cholesky
    cholesky_ex chunk clamp clamp_max clamp_min clip clone coalesce column_stack complex concat concatenate conj
    conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d
    conv_transpose3d convolution cos cosh cov cpu cross cross_entropy cuda cumprod cumsum cummax cummin
    cumulative_trapezoid copy data deg2rad det detach detach_copy diag diag_embed diagflat diagonal diagonal_copy
    diagonal_scatter diff dist dot double dropout dropout1d dropout2d dropout3d dsplit dstack eigvalsh einsum elu
    embedding embedding_bag erf erfc erfcx erfinv exp exp2 expand expand_as expand_copy expit expm1
    feature_alpha_dropout feature_dropout fill flatten flip fliplr flipud float fmax fmin fold fractional_max_pool2d
    fractional_max_pool3d frobenius_norm gather gelu glu gradient grid_sample grid_sampler gru gru_cell
    gumbel_softmax half hardtanh hinge_embedding_loss hsplit hstack huber_loss hypot i0 i0e i1 i1e imag index_add
    index_copy index_fill index_put index_select inner interpolate native_group_norm kron kthvalue l1_loss ldexp
    leaky_relu lerp linear local_response_norm log1p log_ndtr log_sigmoid logsigmoid log_softmax logaddexp
    logaddexp2 logcumsumexp logit logsumexp lp_pool1d lp_pool2d lp_pool3d lstm lstm_cell margin_ranking_loss
    masked_fill masked_scatter masked_select matmul matrix_exp matrix_norm max max_pool1d max_pool2d max_pool3d
    maximum mean median meshgrid min minimum mish mm moveaxis movedim mse_loss msort mul
    multi_head_attention_forward multi_dot multi_margin_loss multigammaln multilabel_margin_loss
    multilabel_soft_margin_loss multiply mv mvlgamma nan_to_num nanmean nansum narrow narrow_copy ndtr ndtri neg
    negative nll_loss norm nuclear_norm outer pad pairwise_distance pdist permute permute_copy pin_memory
    pixel_shuffle pixel_unshuffle poisson_nll_loss polar positive prelu prod put quantile nanquantile rad2deg ravel
    real relu relu6 renorm repeat repeat_interleave requires_grad reshape reshape_as resolve_conj resolve_neg
    rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 row_stack rsub scaled_dot_product_attention scatter
    scatter_add select select_copy select_scatter selu sigmoid silu sin sinc sinh slice_copy slice_scatter
    smooth_l1_loss soft_margin_loss softmax softmin softplus softshrink softsign sort split split_copy
    split_with_sizes split_with_sizes_copy sqrt square squeeze squeeze_copy stack std std_mean sub subtract sum
    sum_to_size svdvals swapaxes swapdims t_copy take take_along_dim tanh tanhshrink tensor_split tensordot tile to
    topk trace transpose transpose_copy trapezoid trapz tril triplet_margin_loss triu type type_as unbind
    unbind_copy unflatten unfold unfold_copy unsqueeze unsqueeze_copy var var_mean vander vdot vecdot vector_norm
    view view_as view_as_complex view_as_real view_copy vsplit vstack where xlog1py xlogy airy_ai bessel_j0
    bessel_j1 igamma igammac gammainc gammaincc spherical_bessel_j0 numpy_T new_tensor zeros_like ones_like
    full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty grad grad_fn shape dtype device
    layout dim size ndim numel stride is_contiguous
    """.split()
)


def may_jump(name: str, result: object) -> bool:
    """Whether a call returns something that carries a gradient, of a function that is not known to be continuous."""
    if is_reviewed(name):
        return False
    parts = result if isinstance(result, (tuple, list)) else (result,)
    return any(isinstance(part, Tensor) and part.requires_grad for part in parts)


def is_reviewed(name: str) -> bool:
    """Whether a function is on the list, has poles that are tracked, or is a Python operator or a Fourier transform.

    An operation in place is what it is named after: `add_` is `add`.
    """
    if name in WITH_POLES or name.rstrip("_") in WITH_POLES:
        return True
    name = name.removeprefix("_foreach_").removeprefix("special_").removeprefix("linalg_")
    if name.startswith("fft_") or (name.startswith("__") and name.endswith("__")):
        return True
    return name in _CONTINUOUS or name.rstrip("_") in _CONTINUOUS
