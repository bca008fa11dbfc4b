"""Write random weights as a checkpoint of safetensors shards: `python -m tools.write_checkpoint CONFIG_FOLDER TO`.

For measuring what loading costs where no checkpoint of the shape is at hand. The weights are those of `--load-format dummy`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import tqdm

from octavo.checkpoints.dummy import fill_dummy
from octavo.checkpoints.files import INDEX
from octavo.checkpoints.folder import resolve_folder
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="folder with config.json, or one of octavo's own shapes")
    parser.add_argument("to", type=Path, help="folder to write; made, must not exist")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shard-bytes", type=int, default=4 * 2**30)
    args = parser.parse_args()
    folder = resolve_folder(args.config, None)
    parameters = read_folder(folder).place_parameters(fresh_memory(torch.device(args.device)))
    fill_dummy(parameters.sources, seed=0)
    args.to.mkdir(parents=True)
    shutil.copy(folder / "config.json", args.to)
    write_shards(parameters.sources, args.to, args.shard_bytes)


def write_shards(tensors: Mapping[str, torch.Tensor], folder: Path, shard_bytes: int) -> None:
    """Write `tensors` into files of about `shard_bytes` bytes, and their index; nothing of them stays in the page cache.

    Args:
        tensors: on any device; read.
        folder: exists.
        shard_bytes: a shard ends with the tensor that reaches it.
    """
    shards = list(_split(tensors, shard_bytes))
    index: dict[str, str] = {}
    for number, shard in enumerate(tqdm(shards, desc="Writing", unit="shard"), 1):
        path = folder / f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: torch.empty_like(tensor, device="cpu").copy_(tensor) for name, tensor in shard.items()}, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        index |= dict.fromkeys(shard, path.name)
    (folder / INDEX).write_text(json.dumps({"weight_map": index}), encoding="utf-8")


def _split(tensors: Mapping[str, torch.Tensor], shard_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        shard[name] = tensor
        size += tensor.nbytes
        if size >= shard_bytes:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


if __name__ == "__main__":
    main()
