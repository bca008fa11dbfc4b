"""What the interpreter makes once is what it would make each time."""

from __future__ import annotations

import numpy as np
import pytest
import triton.language as tl
from triton.runtime.interpreter import TensorHandle


def value(element: tl.dtype, number: float) -> tl.tensor:
    handle = TensorHandle(np.full((4, 8), number, np.float32), element)
    return tl.tensor(handle, tl.block_type(element, [4, 8]))


def test_a_type_of_blocks_is_one_object() -> None:
    made = tl.block_type(tl.float32, [4, 8])
    assert made is tl.block_type(tl.float32, (tl.constexpr(4), 8))
    assert made is tl.block_type(tl.int32, [4, 8]).with_element_ty(tl.float32)
    others = [
        tl.block_type(tl.float32, [8, 4]),
        tl.block_type(tl.float32, [4]),
        tl.block_type(tl.int32, [4, 8]),
        tl.block_type(tl.pointer_type(tl.float32), [4, 8]),
        tl.block_type(tl.pointer_type(tl.float32, const=True), [4, 8]),
    ]
    assert len({id(each) for each in [made, *others]}) == 6
    assert all(each != made for each in others)


def test_a_type_of_blocks_has_its_own_element_and_shape() -> None:
    for element in (tl.float32, tl.bfloat16, tl.pointer_type(tl.int32)):
        made = tl.block_type(element, [4, 8])
        assert (list(made.shape), made.numel, made.scalar, made.is_block()) == ([4, 8], 32, element, True)
        assert made.name == f"<{made.shape}, {element}>"


@pytest.mark.parametrize("shape", [[3], [4, 6], []], ids=str)
def test_a_shape_that_no_block_has_is_refused_each_time(shape: list[int]) -> None:
    for _ in range(2):
        with pytest.raises((TypeError, ValueError)):
            tl.block_type(tl.float32, shape)


def test_values_of_one_type_share_all_but_their_numbers() -> None:
    first, second = value(tl.float32, 1.0), value(tl.float32, 2.0)
    assert (first.handle.data.max(), second.handle.data.max()) == (1.0, 2.0)
    for each in (first, second):
        assert ([size.value for size in each.shape], each.numel.value, each.dtype) == ([4, 8], 32, tl.float32)
        assert each.type is tl.block_type(tl.float32, [4, 8])
