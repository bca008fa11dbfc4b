"""A checkpoint of random weights is read back as the weights it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from octavo.checkpoints.folder import resolve_folder
from octavo.models.load import load_model
from tools import write_checkpoint

CPU = torch.device("cpu")


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, written = resolve_folder("octavo-tiny", None), tmp_path / "written"
    arguments = ["octavo-tiny", str(written), "--device", "cpu", "--shard-bytes", "1000000"]
    monkeypatch.setattr("sys.argv", ["write_checkpoint", *arguments])
    write_checkpoint.main()
    assert len(list(written.glob("*.safetensors"))) == 11
    hidden = torch.randn((9, 192), generator=torch.Generator().manual_seed(0)).bfloat16()
    logits = [
        load_model(folder, load_format=load_format, device=CPU, seed=0).model.logits(hidden)
        for folder, load_format in ((written, "auto"), (tiny, "dummy"), (tiny, "auto"))
    ]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2]), "the twin: other weights"
