"""Without a GPU the kernels run through Triton's interpreter, repaired: the same source, on CPU tensors."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    spec = importlib.util.spec_from_file_location("interpreter", pathlib.Path(__file__).parent / "interpreter.py")
    assert spec is not None
    assert spec.loader is not None
    interpreter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(interpreter)
    interpreter.repair()

collect_ignore = (
    ["test_graphs.py", "test_guard_pages.py", "test_interpreter.py", "test_model.py", "quantize/test_scale_rule.py"]
    if torch.cuda.is_available()
    else []
)
"""What runs on the host alone."""


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def quiet_numpy() -> Iterator[None]:
    """NaN and infinity are inputs here, not accidents."""
    with np.errstate(all="ignore"):
        yield
