"""y = x @ W^T + b, with W in bf16 or in FP8 with one scale per output channel."""

from octavo.ops.linear.cpu import TiledFp8Linear, TiledLinear
from octavo.ops.linear.torch_cuda import CublasLinear, RowwiseFp8Linear
from octavo.ops.linear.weight import Bf16Weight, Fp8Weight, Linear, LinearWeight
from octavo.ops.quantize.cpu import FP8, FP8_MAX, quantize_tokens, round_tokens, widen

__all__ = [
    "FP8",
    "FP8_MAX",
    "Bf16Weight",
    "CublasLinear",
    "Fp8Weight",
    "Linear",
    "LinearWeight",
    "RowwiseFp8Linear",
    "TiledFp8Linear",
    "TiledLinear",
    "quantize_tokens",
    "round_tokens",
    "widen",
]
