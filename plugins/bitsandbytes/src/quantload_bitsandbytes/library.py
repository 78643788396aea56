"""The bitsandbytes library, used where it is right and faster than torch.

On CUDA its kernels make what people's checkpoints are made with, so they quantize there.
On the CPU only its native 4-bit decoder is used, and that without importing the Python
package, which takes two seconds of CPU time and, where `kernels` is installed, asks the
hub for a kernel: the shared library that comes with it is opened directly, and is not
believed before it has been compared with the plain-torch decoder.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quantload_bitsandbytes.codebooks import QUANT_TYPES, codebook
from quantload_bitsandbytes.dequantize4 import dequantize_4bit
from quantload_bitsandbytes.nested import NestedAbsmax
from quantload_bitsandbytes.quantize4 import Quantized4

logger = logging.getLogger("quantload.bitsandbytes")

_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


# -- CUDA ------------------------------------------------------------------------------


@functools.cache
def cuda_library() -> Any:
    """The Python package, where its CUDA kernels work; else None."""
    if not torch.cuda.is_available():
        return None
    try:
        import bitsandbytes
        from bitsandbytes.cextension import lib
    except (ImportError, OSError, RuntimeError) as error:
        logger.warning("bitsandbytes cannot be imported (%s); plain torch is used", error)
        return None
    if not getattr(lib, "compiled_with_cuda", False):
        logger.warning("bitsandbytes has no CUDA kernels here; plain torch is used")
        return None
    return bitsandbytes


def _cuda(tensor: Tensor) -> bool:
    return tensor.is_cuda and cuda_library() is not None


def quantize_4bit(weight: Tensor, block_size: int, quant_type: str) -> Quantized4 | None:
    """By the library's CUDA kernel; None where that cannot serve."""
    if not _cuda(weight) or not weight.numel():
        return None
    packed, absmax = torch.ops.bitsandbytes.quantize_4bit.default(
        weight.contiguous(), block_size, quant_type, torch.uint8
    )
    return Quantized4(packed.view(-1), absmax)


def quantize_absmax(absmax: Tensor) -> NestedAbsmax | None:
    """By the library's CUDA kernel; None where that cannot serve."""
    if not _cuda(absmax) or not absmax.numel():
        return None
    from quantload_bitsandbytes.codebooks import dynamic_map
    from quantload_bitsandbytes.nested import NESTED_BLOCK_SIZE

    offset = absmax.mean()
    codes, nested = torch.ops.bitsandbytes.quantize_blockwise.default(
        absmax - offset, dynamic_map().to(absmax.device), NESTED_BLOCK_SIZE
    )
    return NestedAbsmax(codes, nested, offset)


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """By the library's CUDA kernel; None where that cannot serve."""
    if not _cuda(weight) or not weight.numel():
        return None
    half = weight.to(torch.float16).contiguous()
    codes, scales, _ = torch.ops.bitsandbytes.int8_vectorwise_quant.default(half, 0.0)
    return codes, scales


def integer_product(x: Tensor, codes: Tensor) -> Tensor | None:
    """`x @ codes.T` of int8 matrices in int32; None where the library cannot serve."""
    if not _cuda(x):
        return None
    # the kernel reads rows one after the other; codes of a transposed input lie otherwise
    ours, theirs = x.contiguous(), codes.contiguous()
    product: Tensor = torch.ops.bitsandbytes.int8_linear_matmul.default(ours, theirs)
    return product


# -- CPU -------------------------------------------------------------------------------


class CpuDecoder:
    """The library's native 4-bit decoder, called with one block for a row.

    It takes `columns // block_size` absmax a row (0.50.2), so it is right where rows are
    blocks, whatever the shape of the weight.
    """

    def __init__(self, function: Any, block_size: int) -> None:
        self._function = function
        self._block_size = block_size

    def __call__(self, packed: Tensor, absmax: Tensor, out: Tensor) -> None:
        """Decode whole blocks into `out`; all three are contiguous."""
        self._function(
            ctypes.c_void_p(packed.data_ptr()),
            ctypes.c_void_p(absmax.data_ptr()),
            ctypes.c_void_p(out.data_ptr()),
            ctypes.c_longlong(self._block_size),
            ctypes.c_longlong(out.numel() // self._block_size),
            ctypes.c_longlong(self._block_size),
        )


@functools.cache
def cpu_decoder(quant_type: str, dtype: torch.dtype, block_size: int) -> CpuDecoder | None:
    """The decoder for a type, an output dtype and a block size; None where it cannot serve."""
    library = _cpu_library()
    if library is None or dtype not in _NAMES or quant_type not in QUANT_TYPES:
        return None
    symbol = f"cdequantize_blockwise_cpu_{quant_type}_{_NAMES[dtype]}"
    function = getattr(library, symbol, None)
    if function is None:
        logger.info("libbitsandbytes_cpu has no %s; plain torch is used", symbol)
        return None
    function.restype = None
    decoder = CpuDecoder(function, block_size)
    if not _agrees(decoder, quant_type, dtype, block_size):
        logger.warning(
            "%s of libbitsandbytes_cpu is wrong for blocks of %d; plain torch is used",
            symbol,
            block_size,
        )
        return None
    return decoder


@functools.cache
def _cpu_library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("bitsandbytes")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "libbitsandbytes_cpu.so"
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError as error:
                logger.info("%s cannot be opened (%s); plain torch is used", path, error)
                continue
            # Without AVX-512 it takes scalar code, which is slower than tables.
            has_avx512 = getattr(library, "has_avx512f_cpu", None)
            return library if has_avx512 is not None and has_avx512() else None
    return None


def _agrees(decoder: CpuDecoder, quant_type: str, dtype: torch.dtype, block_size: int) -> bool:
    """Whether it gives what plain torch gives, bit for bit, for every byte."""
    with torch.inference_mode(mode=False), torch.no_grad():
        blocks = max(4, 4096 // block_size)
        n = blocks * block_size
        packed = (torch.arange(n // 2, device="cpu") * 37 % 256).to(torch.uint8)
        absmax = torch.linspace(1e-3, 3.0, blocks, device="cpu", dtype=torch.float32)
        out = torch.empty(n, dtype=dtype, device="cpu")
        decoder(packed, absmax, out)
        values = codebook(quant_type)
        return torch.equal(out, dequantize_4bit(packed, absmax, values, block_size, n, dtype))
