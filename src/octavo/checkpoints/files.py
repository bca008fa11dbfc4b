"""The files of a model folder that hold its weights, found without opening them."""

from __future__ import annotations

from pathlib import Path

from octavo.config.json_file import read_json_object
from octavo.config.model_file import require_file
from octavo.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def find_files(folder: Path) -> dict[Path, set[str]]:
    """The safetensors files, and the tensors that the index says are in each.

    Raises:
        CheckpointError: there are none, or not all that the index names, one is no file, or the index is wrong.
    """
    if (folder / INDEX).exists():
        files = _read_index(folder)
        for path in files:
            if not path.exists():
                raise CheckpointError("not found, though the index names it; download it again", file=str(path))
            require_file(path)
        return files
    if (folder / SINGLE).exists():
        require_file(folder / SINGLE)
        return {folder / SINGLE: set()}
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise CheckpointError(
            f"holds {pickles[0]}, a pickle, which can run any code when read; only safetensors are: convert it with "
            "transformers' save_pretrained (its default is safetensors)",
            file=str(folder),
        )
    raise CheckpointError(
        f"holds no weights (neither {SINGLE} nor {INDEX}); --load-format dummy serves random ones", file=str(folder)
    )


def _read_index(folder: Path) -> dict[Path, set[str]]:
    path = folder / INDEX
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError("is not a safetensors index: it needs an object weight_map", file=str(path))
    files: dict[Path, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"names {file!r}, which is not a safetensors file of its folder", file=str(path), tensor=name
            )
        files.setdefault(folder / file, set()).add(name)
    return files
