"""A checkpoint of random weights is read back as the weights it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from octavo.checkpoints.folder import resolve_folder
from octavo.models.load import fill_parameters
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_folder
from tools import write_checkpoint

CPU = torch.device("cpu")


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, written = resolve_folder("octavo-tiny", None), tmp_path / "written"
    arguments = ["octavo-tiny", str(written), "--device", "cpu", "--shard-bytes", "1000000"]
    monkeypatch.setattr("sys.argv", ["write_checkpoint", *arguments])
    write_checkpoint.main()
    assert len(list(written.glob("*.safetensors"))) == 11
    back, dummy, other = (
        filled(folder, load_format) for folder, load_format in ((written, "auto"), (tiny, "dummy"), (tiny, "auto"))
    )
    assert differences(back, dummy) == []
    assert differences(back, other) != [], "the twin: other weights"


def filled(folder: Path, load_format: str) -> Mapping[str, torch.Tensor]:
    """Every parameter of the folder's model, by its name in a checkpoint."""
    config = read_folder(folder)
    parameters = config.place_parameters(fresh_memory(CPU))
    fill_parameters(parameters, config, folder, load_format=load_format, seed=0, progress=False)
    return parameters.sources


def differences(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of tensors that are not the same, byte by byte."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))]
