"""docs/kernels.md is current and its example runs."""

from __future__ import annotations

import re

import torch

from tools import kernels_page


def test_the_page_is_current() -> None:
    text = kernels_page.PAGE.read_text(encoding="utf-8")
    assert text == kernels_page.page(), "run python -m tools.kernels_page"


def test_the_example_runs(device: torch.device) -> None:
    code = re.search(r"```python\n(.*?)```", kernels_page.HEAD, re.DOTALL)
    assert code is not None
    names: dict[str, object] = {}
    exec(code.group(1).replace('"cuda"', f'"{device.type}"'), names)
    out = names["out"]
    assert isinstance(out, torch.Tensor)
    assert bool(out.isfinite().all())
    assert 0.01 < float(out.float().std()) < 100
