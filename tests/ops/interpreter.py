"""Repairs of Triton's interpreter, so that a kernel computes on the CPU what it computes on the device.

As shipped (3.6 to 3.9) it truncates float32 to bf16, rounds halves and subnormals of FP8 wrongly, and multiplies the bit
patterns of bf16 matrices, and a broadcast bool becomes an int32, which is no mask; up to 3.7 its multiply-add rounds twice.
PyTorch's casts round to nearest even, as the device does.

It also spends most of its time on what does not compute: it replaces the functions of `triton.language` at every launch, and at
every call from one kernel function to another; it makes the type of each value and all that follows from a type anew; and it
computes for each sum of integers whether it overflows, which nobody reads but with `debug`. Here that is done once, or not at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

_TORCH = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp8e4nv": torch.float8_e4m3fn,
}


def _to_torch(data: np.ndarray, dtype: tl.dtype) -> torch.Tensor:
    flat = torch.from_numpy(np.ascontiguousarray(data).view(np.uint8).reshape(-1).copy())
    return flat.view(_TORCH[dtype.name]).reshape(data.shape)


def _to_numpy(tensor: torch.Tensor, dtype: tl.dtype) -> np.ndarray:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    typed: np.ndarray = flat.view(interpreter._get_np_dtype(dtype))
    return typed.reshape(tensor.shape)


class Kept:
    """What has been replaced, and stays so."""

    def restore(self) -> None:
        pass


def replace_once() -> None:
    """Have the functions of `triton.language` replaced for each module that has kernels, when it is first seen."""
    shipped = interpreter._patch_lang
    seen: dict[int, Any] = {}

    def patch(function: Any) -> Kept:
        names = function.__globals__
        if id(names) not in seen:
            seen[id(names)] = names
            shipped(function)
        return Kept()

    interpreter._patch_lang = patch


def remember_dtypes() -> None:
    """NumPy's type for one of Triton's, which the interpreter looks up in a table that it makes anew each time."""
    shipped = interpreter._get_np_dtype
    known: dict[str, Any] = {}

    def np_dtype(asked: Any) -> Any:
        name = asked.scalar.name
        if name not in known:
            known[name] = shipped(asked)
        return known[name]

    interpreter._get_np_dtype = np_dtype


def remember_blocks() -> None:
    """One object for each type of a block: types never change."""
    shipped = tl.block_type.__init__
    known: dict[Any, Any] = {}
    shapes: dict[Any, Any] = {}

    def new(cls: Any, element: Any, shape: Any) -> Any:
        sizes = tuple(each.value if isinstance(each, tl.constexpr) else each for each in shape)
        key = (element.name, getattr(element, "address_space", None), sizes)
        if key not in known:
            made = object.__new__(cls)
            shipped(made, element, shape)
            made.shape = shapes.setdefault(sizes, made.shape)
            known[key] = made
        return known[key]

    tl.block_type.__new__ = staticmethod(new)
    tl.block_type.__init__ = lambda self, element, shape: None
    tl.block_type.to_ir = lambda self, builder: self


def remember_shapes() -> None:
    """All that a value has besides its handle follows from its type: made once for each."""
    shipped = tl.tensor.__init__

    def init(self: Any, handle: Any, type: Any) -> None:
        if "of_values" not in vars(type):
            shipped(self, handle, type)
            type.of_values = {name: each for name, each in vars(self).items() if name != "handle"}
        vars(self).update(type.of_values, handle=handle)

    tl.tensor.__init__ = init


def compare_less() -> None:
    """Equal by what was shipped, but known at once: a type and itself, two values of one shape."""
    shipped_equal, shipped_broadcast = tl.dtype.__eq__, interpreter.TritonSemantic.broadcast_impl_value

    def equal(self: Any, other: Any) -> bool:
        return self is other or shipped_equal(self, other)

    def broadcast(self: Any, left: Any, right: Any) -> Any:
        first, second = left.type, right.type
        if first is second or (first.is_block() and second.is_block() and first.shape is second.shape):
            return left, right
        return shipped_broadcast(self, left, right)

    tl.dtype.__eq__ = equal
    interpreter.TritonSemantic.broadcast_impl_value = broadcast


def repair() -> None:
    """Replace the interpreter's float casts, its matrix product, its multiply-add, its splat of a bool, and its wastes of time."""
    replace_once()
    remember_dtypes()
    remember_blocks()
    remember_shapes()
    compare_less()
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
    builder: Any = interpreter.InterpreterBuilder
    shipped_cast = builder.cast_impl
    handle = interpreter.TensorHandle

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        source, target = src.dtype.scalar, dst_type.scalar
        if source.name in _TORCH and target.name in _TORCH:
            return handle(_to_numpy(_to_torch(src.data, source).to(_TORCH[target.name]), target), target)
        return shipped_cast(self, src, dst_type)

    def dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        # In float64, where the products of these types are exact and their sums nearly always: on some processors BLAS sums a
        # row in another order when there are more rows, which a tensor core does not. As on a tensor core, what 32 bytes of
        # both sides give is added to the accumulator, so the bits do not hang on how many of them one product takes.
        left = _to_torch(a.data, a.dtype.scalar).double().numpy()
        right = _to_torch(b.data, b.dtype.scalar).double().numpy()
        at_once = 32 // (a.dtype.scalar.primitive_bitwidth // 8)
        total = d.data
        for first in range(0, left.shape[-1], at_once):
            part = np.matmul(left[..., first : first + at_once], right[..., first : first + at_once, :])
            total = (part + total).astype(d.data.dtype)
        return handle(total, d.dtype.scalar)

    shipped_splat = builder.create_splat

    def splat(self: Any, ret_ty: Any, arg: Any) -> Any:
        result = shipped_splat(self, ret_ty, arg)
        if arg.data.dtype == np.bool_:
            result.data = result.data.astype(np.bool_)
        return result

    def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        # one rounding, as on the device: a product of two float32 is exact in float64
        total = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
        return handle(total.astype(z.data.dtype), z.dtype.scalar)

    builder.create_fma = fma
    builder.create_splat = splat
    builder.cast_impl = cast
    builder.create_fp_to_fp = lambda self, src, dst_type, rounding_mode: cast(self, src, dst_type)
    builder.create_dot = dot
