# ruff: noqa: SIM905 - a list of words reads better as words
"""Lists of torch operators by properties that their schemas lack, from torch's documentation and source.

Each list errs on the safe side: the inputs of an operator that is on none of them count as leaving torch.
"""

from __future__ import annotations

# Calls that answer with something else than a tensor and yet tell nothing about the values.
SILENT = frozenset(
    """__len__ __hash__ dim size stride numel nelement ndimension is_floating_point is_complex is_contiguous
    element_size get_device is_signed is_inference is_conj is_neg is_pinned is_shared is_same_size broadcast_shapes
    result_type can_cast register_hook requires_grad_ retain_grad has_names __dir__ dim_order is_tensor
    is_storage type is_coalesced dense_dim sparse_dim""".split()
)

# Attributes, likewise. Not among them: `grad_fn` (whose saved tensors are plain), `_cdata` (an address),
# `__cuda_array_interface__`, and `storage_offset()`, which tells an index that a view was made with.
SILENT_PROPERTIES = frozenset(
    """shape dtype device layout ndim requires_grad is_leaf is_cpu is_cuda is_ipu is_maia is_meta is_mkldnn is_mps
    is_mtia is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla is_xpu itemsize nbytes name names
    output_nr retains_grad grad_dtype volatile _has_symbolic_sizes_strides _python_dispatch _backward_hooks
    _post_accumulate_grad_hooks __dict__ __weakref__ _version""".split()
)

# Python's names of operators, which have schemas under other names.
ALIASES = {
    "__add__": "add",
    "__radd__": "add",
    "__sub__": "sub",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__truediv__": "div",
    "__div__": "div",
    "__mod__": "remainder",
    "__matmul__": "matmul",
    "__eq__": "eq",
    "__ne__": "ne",
    "__lt__": "lt",
    "__le__": "le",
    "__gt__": "gt",
    "__ge__": "ge",
    "__invert__": "bitwise_not",
    "__rand__": "bitwise_and",
    "__ror__": "bitwise_or",
    "__rxor__": "bitwise_xor",
    "__pow__": "pow",
    "__neg__": "neg",
    "__pos__": "positive",
    "__abs__": "abs",
    "dsmm": "mm",
}

# Methods that convert to a type or a device and have no schemas of their own.
CONVERSIONS = frozenset(
    """bfloat16 bool byte cdouble cfloat chalf char double float half int long short cpu cuda""".split()
)

_SHAPE = "the shape of what it returns depends on values"
_RANDOM = "how many random numbers it uses up depends on values"
_NESTED = "the sizes in a nested tensor may depend on values"

# Operators that let values leave though their schemas read as if they did not.
TELLING = {
    **dict.fromkeys(
        """nonzero nonzero_numpy argwhere masked_select index unique unique_consecutive unique_dim
        unique_dim_consecutive _unique _unique2 bincount repeat_interleave one_hot histogramdd linalg_lstsq
        _pack_padded_sequence _pad_packed_sequence combinations _masked_softmax_sizes _ctc_loss _cudnn_ctc_loss
        miopen_ctc_loss""".split(),
        _SHAPE,
    ),
    **dict.fromkeys("poisson binomial _standard_gamma _sample_dirichlet rrelu rrelu_with_noise".split(), _RANDOM),
    **dict.fromkeys(
        """_nested_from_padded _nested_from_padded_and_nested_example _nested_view_from_buffer
        _nested_view_from_buffer_copy _nested_view_from_jagged _nested_view_from_jagged_copy
        _nested_from_padded_tensor _nested_compute_contiguous_strides_offsets _nested_tensor_from_mask
        _nested_tensor_storage_offsets _padded_dense_to_jagged_forward _jagged_to_padded_dense_forward""".split(),
        _NESTED,
    ),
}

# Operators that raise no error for any values, given that shapes and types fit. An operator that is not here is taken
# to raise errors for some (an index out of range, a matrix that has no factor, a division of integers by zero).
TOTAL = frozenset(
    """__and__ __deepcopy__ __invert__ __or__ __rdiv__ __reversed__ __rsub__ __xor__ _log_softmax _softmax _unsafe_view
    abs absolute acos acosh add addbmm addcmul addmm addmv alias all amax amin any arccos arccosh arcsin arcsinh
    arctan arctan2 arctanh argmax argmin argsort as_strided asin asinh atan atan2 atanh atleast_1d atleast_2d
    atleast_3d avg_pool1d avg_pool2d baddbmm bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors
    broadcast_to cat cdist ceil celu chunk clamp clamp_max clamp_min clip clone concat concatenate contiguous conv1d
    conv2d conv3d cos cosh cummax cummin cumprod cumsum deg2rad detach diag diag_embed diagonal diff digamma div
    divide dot dropout einsum elu empty_like eq erf erfc erfinv exp exp2 expand expand_as expm1 flatten flip floor
    frac full_like ge gelu glu greater greater_equal group_norm gt hardsigmoid hardswish hardtanh heaviside hypot
    imag inner isfinite isinf isnan kron layer_norm le leaky_relu lerp less less_equal lgamma linalg_vector_norm
    linear log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logical_and logical_not
    logical_or logical_xor logit logsigmoid logsumexp lt mT masked_fill matmul max maximum mean median min minimum
    mish mm moveaxis movedim mse_loss mul multiply mv mvlgamma nan_to_num nanmean nansum narrow_copy ne neg negative
    norm not_equal ones_like outer pad permute pixel_shuffle polygamma positive prod ravel real reciprocal relu
    relu6 repeat reshape reshape_as rms_norm roll rot90 round rsqrt rsub select selu sgn sigmoid sign silu sin sinc
    sinh slice softmax softmin softplus softsign sort special_digamma special_erf special_erfc special_erfinv
    special_expit special_expm1 special_gammaln special_log1p special_log_softmax special_logit special_logsumexp
    special_ndtr special_ndtri special_psi special_softmax special_xlog1py special_xlogy split sqrt square squeeze
    stack std std_mean sub subtract sum swapaxes swapdims t tan tanh tanhshrink tensordot to topk transpose tril
    triu true_divide trunc type_as unbind unflatten unsqueeze var var_mean vdot vector_norm view view_as
    view_as_complex view_as_real where xlogy zeros_like""".split()
)

# Operators that write into the running averages they are given, of which their schemas say nothing.
WITH_RUNNING_AVERAGES = frozenset(
    """batch_norm instance_norm native_batch_norm cudnn_batch_norm miopen_batch_norm _batch_norm_impl_index
    batch_norm_gather_stats batch_norm_gather_stats_with_counts batch_norm_update_stats""".split()
)

# Operators whose sizes may be given by a tensor of several numbers. (A single number that is given as a tensor, the end
# of `arange`, the start of `narrow`, is read by `item()` or `__index__`, which is seen, or counts as a size.)
MEASURED_BY_TENSORS = frozenset(("tensor_split",))

# Functions written in Python that carry, by module. A parameter that may be a tensor says so in its annotation; the
# functions without annotations name theirs. Left out on purpose: `unique` and `unique_consecutive` (shapes), `lobpcg`
# and `triplet_margin_with_distance_loss` (they call a user's function), `rrelu` (random numbers), `__contains__`,
# `__format__`, `__repr__`, `__array__`, `__dlpack__`, `storage` (values leave), `backward`, `grad` (hooks are called,
# and `.grad` is written), `share_memory_`, `resize`, `module_load`, `__setstate__` (writes), `sym_int` and its like.
PYTHON: dict[str, dict[str, tuple[str, ...] | None]] = {
    "torch.nn.functional": dict.fromkeys(
        """_threshold adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool1d_with_indices
        adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d adaptive_max_pool3d_with_indices
        affine_grid alpha_dropout batch_norm binary_cross_entropy binary_cross_entropy_with_logits celu
        cosine_embedding_loss cross_entropy ctc_loss dropout dropout1d dropout2d dropout3d elu embedding embedding_bag
        feature_alpha_dropout fold fractional_max_pool2d fractional_max_pool2d_with_indices fractional_max_pool3d
        fractional_max_pool3d_with_indices gaussian_nll_loss glu grid_sample group_norm gumbel_softmax hardsigmoid
        hardswish hardtanh hinge_embedding_loss huber_loss instance_norm interpolate kl_div l1_loss layer_norm
        leaky_relu local_response_norm log_softmax lp_pool1d lp_pool2d lp_pool3d margin_ranking_loss max_pool1d
        max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool1d
        max_unpool2d max_unpool3d mish mse_loss multi_head_attention_forward multi_margin_loss multilabel_margin_loss
        multilabel_soft_margin_loss nll_loss normalize pad poisson_nll_loss relu relu6 rms_norm selu silu
        smooth_l1_loss soft_margin_loss softmax softmin softsign tanhshrink triplet_margin_loss unfold""".split()
    ),
    "torch.functional": {
        **dict.fromkeys("stft unravel_index".split()),
        "split": ("tensor",),
        "tensordot": ("a", "b"),
        "norm": ("input", "p"),
        "cdist": ("x1", "x2", "p"),
        **dict.fromkeys(
            "atleast_1d atleast_2d atleast_3d block_diag broadcast_tensors cartesian_prod meshgrid".split(),
            ("tensors",),
        ),
        "chain_matmul": ("matrices",),
        "einsum": ("args",),
    },
    "torch._tensor": {
        **dict.fromkeys("istft stft".split()),
        "norm": ("self", "p"),
        "split": ("self",),
        "unflatten": ("self",),
        "lu": ("self",),
        "__deepcopy__": ("self", "memo"),
        "__reversed__": ("self",),
        **dict.fromkeys(
            """__floordiv__ __rdiv__ __rfloordiv__ __rlshift__ __rmatmul__ __rmod__ __rpow__ __rrshift__
            __rsub__""".split(),
            ("self", "other"),
        ),
    },
    "torch._lowrank": dict.fromkeys("pca_lowrank svd_lowrank".split()),
}
