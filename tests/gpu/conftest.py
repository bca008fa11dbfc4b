"""Tests that need a GPU are not collected without one, but by who asks whether they could be."""

from __future__ import annotations

import os

import torch

collect_ignore_glob = [] if torch.cuda.is_available() or "COLLECT_GPU_TESTS" in os.environ else ["test_*.py"]
