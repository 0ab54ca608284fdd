"""What each operator costs in floating-point operations: a formula, zero by convention, or unknown.

The convention: a multiply-add is 2. Counted are contractions (matrix products, attention, convolutions,
embedding bags, sparse products) and Fourier transforms. Zero are point-wise operations, reductions,
normalisations, softmax, scans, comparisons, look-ups, random numbers and data movement: they are of lower
order, and papers leave them out. Masked positions of attention and padding count like others: the kernels
are charged for the shapes that they are given. A complex multiply-add is 8.

Operators go by the name ``namespace.operator`` without its overload ("aten.mm").
"""

from collections.abc import Callable, Mapping, Sequence
from math import log2, prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils.flop_counter import flop_registry

Formula = Callable[[Sequence[Any], Any], float | None]
"""From the positional arguments and the result of a call to its FLOPs; None where they are unknown."""


def operator_name(operator: OpOverload) -> str:
    """``aten.mm`` for every overload of ``mm``."""
    return f"{operator.namespace}.{operator._schema.name.split('::')[1]}"


def _stored_entries(matrix: Tensor) -> int:
    """Entries that a sparse tensor stores, explicit zeros included."""
    if matrix.layout is torch.sparse_coo:
        return matrix._values().numel()
    return matrix.values().numel()


def _matrix_product(first: int) -> Formula:
    """A product of matrices (or of equally many pairs of them), the left one at position ``first``."""

    def flops(args: Sequence[Any], _out: Any) -> float | None:
        left, right = args[first], args[first + 1]
        left_is_sparse, right_is_sparse = left.layout is not torch.strided, right.layout is not torch.strided
        if left_is_sparse and right_is_sparse:
            return None  # depends on where the entries are
        if left_is_sparse:
            return 2 * _stored_entries(left) * right.shape[-1]
        if right_is_sparse:
            return 2 * _stored_entries(right) * left.shape[-2]
        return 2 * prod(left.shape) * right.shape[-1]

    return flops


def _vector_product(first: int) -> Formula:
    """A matrix or vector at position ``first`` times a vector."""

    def flops(args: Sequence[Any], _out: Any) -> float:
        left = args[first]
        return 2 * (left.numel() if left.layout is torch.strided else _stored_entries(left))

    return flops


def _linear(args: Sequence[Any], out: Any) -> float:
    """A linear layer: inputs (…, K) at position 0 to outputs (…, N), weights in any packed form."""
    return 2 * out.numel() * args[0].shape[-1]


def _linear_backward(args: Sequence[Any], _out: Any) -> float:
    """Gradients of input and weight, as far as asked for: ``args`` is input, gradient, weight, mask."""
    return 2 * args[1].numel() * args[0].shape[-1] * sum(args[3][:2])


def _attention(args: Sequence[Any], _out: Any) -> float:
    """Scores and weighted sum, all (T_q, T_k) positions: queries (B, H, T_q, D), values (B, H, T_k, D_v)."""
    query, key, value = (tensor.shape for tensor in args[:3])
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward(args: Sequence[Any], _out: Any) -> float:
    """Five products: fused kernels compute the scores again, then the gradients of their four factors."""
    query, key, value = (tensor.shape for tensor in args[1:4])
    return 2 * prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _encoder_layer(args: Sequence[Any], _out: Any) -> float:
    """The fast path of ``nn.TransformerEncoderLayer``: source (B, T, D), feed-forward width F."""
    source, width, feedforward_width = args[0].shape, args[1], args[14].shape[0]
    per_token = 8 * width**2 + 4 * source[-2] * width + 4 * width * feedforward_width
    return prod(source[:-1]) * per_token


def _multi_head_attention(args: Sequence[Any], _out: Any) -> float:
    """The fast path of ``nn.MultiheadAttention``: query, key and value (B, T, D)."""
    query, key, width = args[0].shape, args[1].shape, args[3]
    projections = 4 * prod(query[:-1]) * width**2 + 4 * prod(key[:-1]) * width**2
    return projections + 4 * prod(query[:-1]) * key[-2] * width


def _embedding_bag(indices: int, mode: int) -> Formula:
    """The product of a sparse matrix of counts, N entries, with the table (V, D): 2 N D.

    Maxima (mode 2) are not products. ``indices`` and ``mode`` are positions; the result ends with D.
    """
    return lambda args, out: 0 if args[mode] == 2 else 2 * args[indices].numel() * out.shape[-1]


def _embedding_bag_weights_backward(args: Sequence[Any], _out: Any) -> float:
    """One scalar product of width D for each of N entries: ``args`` is gradient (B, D), table, indices."""
    return 2 * args[2].numel() * args[0].shape[-1]


def _fourier_transform(args: Sequence[Any], out: Any) -> float:
    """5 N log2 N for a complex transform of N points, half of it for a real one (www.fftw.org/speed)."""
    signal = args[0] if not args[0].is_complex() else out  # the longer, real side of a real transform
    is_real = not (args[0].is_complex() and out.is_complex())
    points = prod(signal.shape[dim] for dim in args[1])
    return (2.5 if is_real else 5) * signal.numel() * log2(points) if points else 0


FORMULAS: Mapping[str, Formula] = {
    "aten.mm": _matrix_product(0),
    "aten.bmm": _matrix_product(0),
    "aten.addmm": _matrix_product(1),
    "aten.addbmm": _matrix_product(1),
    "aten.baddbmm": _matrix_product(1),
    "aten._addmm_activation": _matrix_product(1),
    "aten._sparse_addmm": _matrix_product(1),
    "aten._int_mm": _matrix_product(0),
    "aten.mv": _vector_product(0),
    "aten.addmv": _vector_product(1),
    "aten.dot": _vector_product(0),
    "aten.vdot": _vector_product(0),
    "aten.linear_backward": _linear_backward,
    "aten.mkldnn_linear": _linear,
    "aten._weight_int8pack_mm": _linear,
    "aten._weight_int4pack_mm": _linear,
    "aten._weight_int4pack_mm_for_cpu": _linear,
    "aten._dyn_quant_matmul_4bit": _linear,
    "mkldnn._linear_pointwise": _linear,
    "mkl._mkl_linear": _linear,
    "quantized.linear": _linear,
    "quantized.linear_relu": _linear,
    "quantized.linear_dynamic": _linear,
    "quantized.linear_relu_dynamic": _linear,
    "quantized.linear_dynamic_fp16": _linear,
    "quantized.linear_with_input_q_dq_qweight_dq_output_fp32": _linear,
    "onednn.qlinear_pointwise": _linear,
    "effnlp.int8_as_floats": _linear,
    "effnlp.int8_by_onnxruntime": _linear,
    "effnlp.int8_by_torchao": _linear,
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten._scaled_dot_product_flash_attention_backward": _attention_backward,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "aten._scaled_dot_product_efficient_attention_backward": _attention_backward,
    "aten._scaled_dot_product_cudnn_attention_backward": _attention_backward,
    "aten._scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
    "aten._transformer_encoder_layer_fwd": _encoder_layer,
    "aten._native_multi_head_attention": _multi_head_attention,
    "aten._embedding_bag": _embedding_bag(1, 4),
    "aten._embedding_bag_forward_only": _embedding_bag(1, 4),
    "aten._embedding_bag_backward": _embedding_bag(1, 8),
    "aten._embedding_bag_dense_backward": _embedding_bag(1, 7),
    "aten._embedding_bag_sparse_backward": _embedding_bag(1, 7),
    "aten._embedding_bag_per_sample_weights_backward": _embedding_bag_weights_backward,
    "quantized.embedding_bag_byte": _embedding_bag(1, 4),
    "quantized.embedding_bag_4bit": _embedding_bag(1, 4),
    "aten._fft_r2c": _fourier_transform,
    "aten._fft_c2r": _fourier_transform,
    "aten._fft_c2c": _fourier_transform,
}

_FOURIER = ("aten._fft_r2c", "aten._fft_c2r", "aten._fft_c2c")

_ZERO_NAMESPACES = frozenset({"prim", "profiler", "c10d", "c10d_functional", "_c10d_functional"})

_ZERO_TAGS = frozenset({torch.Tag.pointwise, torch.Tag.reduction})

_ZERO_NORMALISATIONS = """
    native_layer_norm native_layer_norm_backward native_group_norm native_group_norm_backward
    native_batch_norm native_batch_norm_backward cudnn_batch_norm cudnn_batch_norm_backward
    _native_batch_norm_legit _native_batch_norm_legit_functional _batch_norm_with_update
    batch_norm_backward _fused_rms_norm _fused_rms_norm_backward renorm _weight_norm_interface
    _weight_norm_interface_backward
    _softmax _softmax_backward_data _safe_softmax _log_softmax _log_softmax_backward_data _masked_softmax
    _masked_softmax_backward logcumsumexp _logcumsumexp log_softmax softmax
"""

_ZERO_REDUCTIONS_AND_SCANS = """
    sum mean prod var std var_mean std_mean amax amin aminmax max min norm linalg_vector_norm count_nonzero
    argmax argmin any all median nanmedian mode kthvalue nansum logsumexp cumsum cumprod cummax cummin
    _cummax_helper _cummin_helper trace histc bincount equal is_nonzero allclose
    nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward mse_loss mse_loss_backward
    binary_cross_entropy binary_cross_entropy_backward binary_cross_entropy_with_logits smooth_l1_loss
    smooth_l1_loss_backward huber_loss huber_loss_backward soft_margin_loss kl_div
    avg_pool1d avg_pool2d avg_pool2d_backward max_pool2d_with_indices max_pool2d_with_indices_backward
    _adaptive_avg_pool2d _adaptive_avg_pool2d_backward adaptive_max_pool2d adaptive_max_pool2d_backward
"""

_ZERO_COMPARISONS = """
    sort argsort topk searchsorted bucketize unique_dim _unique _unique2 unique_consecutive isin nonzero
    nonzero_static where msort
"""

_ZERO_POINTWISE = """
    native_dropout native_dropout_backward _fused_dropout bernoulli glu glu_backward gelu gelu_backward
    silu silu_backward hardtanh_backward threshold threshold_backward leaky_relu_backward elu_backward
    softplus_backward log_sigmoid_forward log_sigmoid_backward _prelu_kernel _prelu_kernel_backward
    rrelu_with_noise addcmul addcdiv lerp where dropout celu floor_divide pow fmod remainder
    fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask
    fake_quantize_per_tensor_affine_cachemask_backward fake_quantize_per_channel_affine_cachemask_backward
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams _fake_quantize_learnable_per_tensor_affine
    _fake_quantize_learnable_per_channel_affine quantize_per_tensor quantize_per_channel
    quantize_per_tensor_dynamic dequantize _choose_qparams_per_tensor choose_qparams_optimized
    _thnn_fused_lstm_cell _thnn_fused_lstm_cell_backward_impl _thnn_fused_gru_cell
    _thnn_fused_gru_cell_backward _amp_foreach_non_finite_check_and_unscale _amp_update_scale
    _fused_adam _fused_adamw _fused_sgd _fused_adagrad
"""

_ZERO_MOVEMENT = """
    embedding embedding_dense_backward embedding_sparse_backward embedding_renorm cat stack hstack vstack
    index index_select index_put _index_put_impl _unsafe_index _unsafe_index_put index_add index_copy
    index_fill index_reduce gather scatter scatter_add scatter_reduce masked_fill masked_scatter
    masked_scatter_backward masked_select take put take_along_dim slice_backward select_backward
    slice_scatter select_scatter diagonal_scatter diagonal_backward as_strided_scatter unfold_backward
    clone copy _to_copy to lift lift_fresh lift_fresh_copy contiguous _unsafe_view _reshape_alias
    _reshape_copy view_copy resize resize_as set set_data flip roll rot90 repeat repeat_interleave tile
    constant_pad_nd pad_sequence reflection_pad1d replication_pad1d tril triu tril_indices triu_indices
    col2im im2col pixel_shuffle block_diag expand_copy permute_copy fill zero _pin_memory pin_memory
    is_pinned record_stream detach alias unsafe_split unsafe_split_with_sizes unsafe_chunk
    empty empty_like empty_strided empty_permuted new_empty new_empty_strided new_full new_zeros new_ones
    full full_like zeros zeros_like ones ones_like arange linspace logspace eye scalar_tensor
    _efficientzerotensor rand rand_like randn randn_like randint randint_like randperm normal uniform
    exponential geometric random cauchy log_normal multinomial poisson binomial
    _local_scalar_dense item _assert_async _assert_scalar _assert_tensor_metadata
    _fused_sdp_choice sym_constrain_range_for_size sym_constrain_range
    _to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_dense to_dense coalesce _coalesce
    _coalesced is_coalesced _nnz _dimI _dimV sparse_dim dense_dim _indices _values indices values
    crow_indices col_indices sparse_mask _sparse_mask_projection sparse_resize sparse_resize_and_clear
    _sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe
    _sparse_compressed_tensor_unsafe _sparse_compressed_tensor_with_dims _sparse_csr_tensor_unsafe
    _validate_sparse_coo_tensor_args _validate_sparse_compressed_tensor_args
    _convert_weight_to_int4pack _convert_weight_to_int4pack_for_cpu _dyn_quant_pack_4bit_weight
    int_repr q_scale q_zero_point q_per_channel_scales q_per_channel_zero_points q_per_channel_axis qscheme
    _make_per_tensor_quantized_tensor _make_per_channel_quantized_tensor _empty_affine_quantized
    _empty_per_channel_affine_quantized _padded_dense_to_jagged_forward _jagged_to_padded_dense_forward
    _pack_padded_sequence _pack_padded_sequence_backward segment_reduce _segment_reduce_backward
    view_as_real_copy view_as_complex_copy complex polar
"""

_ZERO_QUANTIZED = """
    linear_prepack linear_unpack linear_prepack_fp16 linear_unpack_fp16 embedding_byte embedding_4bit
    embedding_bag_byte_prepack embedding_bag_prepack embedding_bag_unpack cat
"""


def _names(namespace: str, *lists: str) -> frozenset[str]:
    return frozenset(f"{namespace}.{name}" for names in lists for name in names.split())


ZERO = (
    _names(
        "aten",
        _ZERO_NORMALISATIONS,
        _ZERO_REDUCTIONS_AND_SCANS,
        _ZERO_COMPARISONS,
        _ZERO_POINTWISE,
        _ZERO_MOVEMENT,
    )
    | _names("quantized", _ZERO_QUANTIZED)
    | _names("onednn", "qlinear_prepack")
    | _names("quantized_decomposed", "quantize_per_tensor dequantize_per_tensor choose_qparams")
)
"""Operators that are zero by convention and carry no tag that says so."""


def is_zero(operator: OpOverload) -> bool:
    """Whether the convention gives this operator no FLOPs. A formula goes before."""
    name = operator_name(operator)
    if operator.namespace in _ZERO_NAMESPACES or operator.is_view:
        return True
    if any(tag in _ZERO_TAGS for tag in operator.tags):
        return True
    in_place = name.removesuffix("_")
    return name in ZERO or in_place in ZERO or name.startswith("aten._foreach_")


def has_formula(operator: OpOverload) -> bool:
    """Whether a call of the operator can be counted as it is, without taking it apart."""
    return operator_name(operator) in FORMULAS or operator.overloadpacket in flop_registry


def operator_flops(
    operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> float | None:
    """FLOPs of one call: by our formula, else by PyTorch's, else zero by convention, else None (unknown)."""
    name = operator_name(operator)
    positional = positional_arguments(operator, args, kwargs)
    result = out[0] if isinstance(out, (tuple, list)) and out else out
    flops: float | None
    if any(isinstance(argument, Tensor) and argument.is_nested for argument in positional):
        return 0 if is_zero(operator) else None  # rows of different lengths: the formulas read one shape
    if name in FORMULAS:
        flops = FORMULAS[name](positional, result)
    elif operator.overloadpacket in flop_registry:
        flops = flop_registry[operator.overloadpacket](*args, **kwargs, out_val=out)
    else:
        return 0 if is_zero(operator) else None
    is_complex = isinstance(result, Tensor) and result.is_complex() and name not in _FOURIER
    return flops * 4 if flops is not None and is_complex else flops


def positional_arguments(
    operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """All arguments of a call in the order of the operator's schema, defaults filled in."""
    rest = operator._schema.arguments[len(args) :]
    return (*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest))
