"""Without a GPU the kernels run through Triton's interpreter, whichever test imports one first: Triton chooses at its import."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
