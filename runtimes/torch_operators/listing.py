"""The rule by which the allow-list of operators is made from the PyTorch that is installed.

`python -m runtimes.torch_operators.listing` adds the operators of the installed release to
`known_operators.txt`; those of other releases stay. Review what it adds by name: nothing may be known that
reads memory, files or sockets which it was not given, gives out memory that nobody has written, trusts an
index without checking it, or acts on the process. An operator of `aten` that is not known is listed as
refused, so that a method of that name is not taken for one of the program's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from runtimes.torch_operators.known import KNOWN, REFUSED, known_operators, refused_operators

_FILE = Path(__file__).with_name("known_operators.txt")
_HEADER = "# The operators of programs for PyTorch: see known.py. Written by listing.py.\n"

# Operators whose names begin with "_" are PyTorch's own inner parts, and many check nothing. Traced, scripted
# and decomposed programs have these, and each of them checks its shapes and indices.
_INNER = frozenset(  # as a text, since there are many
    """
    __and__ __contains__ __derive_index __getitem__ __iand__ __ilshift__ __interpolate __ior__ __irshift__
    __is__ __isnot__ __ixor__ __lshift__ __not__ __or__ __range_length __round_to_zero_floordiv __rshift__
    __upsample __upsample_bilinear __upsample_nearest __xor__ _adaptive_avg_pool2d _adaptive_avg_pool3d
    _addmm_activation _aminmax _assert_async _assert_scalar _assert_tensor_metadata
    _autocast_to_full_precision _autocast_to_reduced_precision _cast_Byte _cast_Char _cast_Double
    _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _cdist_forward _conj _conj_physical _convolution
    _convolution_mode _dim_arange _embedding_bag _embedding_bag_forward_only _euclidean_dist _fft_c2c
    _fft_c2r _fft_r2c _functional_assert_async _functional_assert_scalar _get_tracing_state _infer_size
    _is_all_true _is_any_true _linalg_det _linalg_eigh _linalg_slogdet _linalg_solve_ex _linalg_svd
    _list_to_tensor _local_scalar_dense _log_softmax _logcumsumexp _make_per_channel_quantized_tensor
    _make_per_tensor_quantized_tensor _masked_softmax _native_batch_norm_legit
    _native_batch_norm_legit_functional _native_batch_norm_legit_no_training _native_multi_head_attention
    _neg_view _nested_tensor_from_mask _nested_tensor_from_mask_left_aligned _pack_padded_sequence
    _pad_circular _pad_enum _pad_packed_sequence _pdist_forward _prelu_kernel _reshape_from_tensor
    _safe_softmax _scaled_dot_product_attention_math _scaled_dot_product_flash_attention_for_cpu _set_item
    _shape_as_tensor _softmax _tensor_to_list _to_copy _transformer_encoder_layer_fwd _trilinear _unique
    _unique2 _unsafe_view _unwrap_optional _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    _upsample_lanczos2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d
    _weight_norm _weight_norm_interface
    """.split()  # noqa: SIM905
)
# Parts of names: of operators that trust the indices, sizes or addresses they are given, of those that give
# out memory nobody has written, of backends that take what another operator made ready, and of files.
_UNCHECKED = re.compile(
    r"backward|unsafe|as_strided|storage|resize|from_file|from_blob|buffer|data_ptr|sparse|nested|segment"
    r"|ctc_loss|embedding_renorm|empty|cudnn|miopen|mkldnn|onednn|mps|fbgemm|hspmm|compressed|csr|csc|bsr|bsc"
    r"|stream|slice_inverse|rowwise_offsets|bag_\w+_unpack|legacy|packed_weight|lu_solve|ldl_solve|lu_unpack"
)
# Single ones of the same kinds, and those that set what the whole process has, or ask other processes.
_NOT_KNOWN = frozenset(  # as a text, since there are many
    """
    aten::save aten::load aten::set aten::set_ aten::set_data aten::manual_seed aten::seed
    aten::initial_seed aten::ccol_indices aten::crow_indices aten::col_indices aten::row_indices
    aten::indices aten::grad aten::retain_grad aten::retains_grad aten::get_gradients aten::is_pinned
    aten::pin_memory aten::batch_norm_elemt aten::batch_norm_gather_stats
    aten::batch_norm_gather_stats_with_counts aten::batch_norm_stats aten::batch_norm_update_stats
    aten::geqrf aten::ormqr aten::sspaddmm aten::smm aten::fused_moving_avg_obs_fake_quant
    aten::choose_qparams_optimized aten::has_torch_function aten::confirmed_by_owner aten::is_owner
    aten::local_value aten::owner aten::owner_name aten::to_here
    """.split()  # noqa: SIM905
)
# It makes all of the indices itself.
_KNOWN = frozenset({"aten::to_sparse"})
# What the compiler makes of the language itself, most of it without a schema.
_LANGUAGE = """
    Closure Constant CallFunction CallMethod CreateObject DictConstruct Enter EnumName EnumValue Exit GetAttr
    HasAttr If IfThenElse ListConstruct ListUnpack Load Loop ModuleContainerIndex NumToTensor Param
    RaiseException Return SetAttr Store StringIndex TupleConstruct TupleIndex TupleSlice TupleUnpack
    Uninitialized abs annotate awaitable awaitable_nowait awaitable_wait data device dtype fork index
    is_cpu is_cuda is_meta is_nested is_quantized is_sparse isinstance itemsize layout max min name nbytes
    rangelist requires_grad tolist type unchecked_cast unchecked_unwrap_optional unpack
"""
# Of torch.export, which are written in Python on top of `aten`.
_PRIMS = """
    abs acos acosh add amax amin any asin asinh atan atan2 atanh bessel_i0 bessel_i0e bessel_i1 bessel_i1e
    bessel_j0 bessel_j1 bitwise_and bitwise_not bitwise_or bitwise_xor broadcast_in_dim cat cbrt ceil clone
    collapse collapse_view conj conj_physical convert_element_type copy_to cos cosh digamma div eq erf
    erf_inv erfc erfcx exp exp2 expm1 fft_c2c fft_c2r fft_r2c fill floor fmax fmin fmod frexp full full_like
    gcd ge gt hypot igamma igammac imag iota isfinite item le lgamma log log10 log1p log2 lt maximum
    maximum_value minimum minimum_value mul ndtri ne neg nextafter normal pow prod real reciprocal remainder
    reshape rev round rsqrt scalar_tensor select shift_left shift_right_arithmetic sign signbit sin sinh slice
    split_dim spherical_bessel_j0 sqrt squeeze sub sum svd tan tanh transpose trunc var view_of where
    xor_sum zeta
"""


def write() -> None:
    """Add the operators of the installed PyTorch to the list."""
    import torch
    import torch._prims

    installed = {schema.name for schema in torch._C._jit_get_all_schemas()}
    known = set(_known(installed))
    refused = {name for name in installed if name.startswith("aten::")} - known
    lines = [f"{KNOWN} {name}\n" for name in sorted(known | (_listed(known_operators) - refused))]
    lines += [f"{REFUSED} {name}\n" for name in sorted(refused | (_listed(refused_operators) - known))]
    _FILE.write_text(_HEADER + "".join(lines), "utf-8")


def _known(installed: Iterable[str]) -> Iterator[str]:
    """Yield those of the installed operators that the rule takes, and the words of the language."""
    yield from (f"prim::{word}" for word in _LANGUAGE.split())
    yield from (name for word in _PRIMS.split() if (name := f"prims::{word}") in installed)
    for operator in installed:
        namespace, _, name = operator.partition("::")
        if operator in _KNOWN:
            yield operator
        elif namespace == "aten" and name.startswith("_"):
            if name in _INNER:
                yield operator
        elif (
            namespace in ("aten", "quantized")
            and not name.startswith("_")
            and operator not in _NOT_KNOWN
            and not _UNCHECKED.search(name)
        ):
            yield operator


def _listed(names: Callable[[], frozenset[str]]) -> frozenset[str]:
    """Return the names that are on the list by now."""
    return names() if _FILE.exists() else frozenset()


if __name__ == "__main__":
    write()
