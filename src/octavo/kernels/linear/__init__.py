"""y = x @ W^T + b, with W in bf16 or in FP8 with one scale per output channel."""

from octavo.kernels.linear.cpu import TiledFp8Linear, TiledLinear
from octavo.kernels.linear.cuda import CublasLinear, RowwiseFp8Linear
from octavo.kernels.linear.quantize import FP8, FP8_MAX, quantize_tokens, round_tokens, widen
from octavo.kernels.linear.weight import Bf16Weight, Fp8Weight, Linear, LinearWeight

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
