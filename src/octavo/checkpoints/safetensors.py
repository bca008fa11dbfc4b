"""Weights out of safetensors files, tensor by tensor."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from octavo.checkpoints.files import INDEX, find_files
from octavo.checkpoints.fused_experts import NO_CODES, find_members, is_scale, shape_of, split
from octavo.errors import CheckpointError
from octavo.ops.activations import FP8

log = logging.getLogger(__name__)

PINNED_BYTES = range(64 * 1024, 64 * 1024**2)
"""Of tensors that go to a GPU by way of pinned memory, beside Python. Smaller ones are no faster by it; torch keeps what it once has pinned."""


NO_COPIES: Mapping[str, str] = types.MappingProxyType({})


class Format(Protocol):
    """How a quantization format stores its tensors."""

    def stored_as(self, name: str, parameter: torch.dtype) -> tuple[torch.dtype, ...]:
        """The types in which the tensor `name` may be stored that fills parameters of type `parameter`."""
        ...

    def complaint(self, name: str, tensor: torch.Tensor) -> str | None:
        """Says what is wrong with the values of `tensor`; None if nothing is."""
        ...

    def usual_name(self, name: str) -> str:
        """The name that parameters know the tensor `name` of a file by; writers have several for some."""
        ...

    def is_single(self, name: str) -> bool:
        """Whether the tensor `name` is one number, in whatever shape, that fills all of its parameter."""
        ...

    def is_made(self, name: str) -> bool:
        """Whether the parameter `name` is made of what fills another one, and no file has such a tensor."""
        ...

    def put(self, name: str, tensor: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> None:
        """Write `tensor`, of the parameter's shape, to the parameter `name`, and to those that are made of it."""
        ...

    def default(self, name: str) -> float | None:
        """What all of the parameter `name` is without such a tensor; None: that is an error."""
        ...


def fill_from_folder(
    folder: Path,
    parameters: Mapping[str, torch.Tensor],
    stored: Format,
    *,
    needless: Callable[[str], bool] = lambda name: False,
    copies: Mapping[str, str] = NO_COPIES,
    progress: bool = True,
) -> None:
    """Fill every parameter from the folder's safetensors files, mapped into memory and copied tensor by tensor.

    One line in the log says which tensors were left out.

    Args:
        folder: with `model.safetensors`, or shards and their index.
        parameters: name of each expected tensor -> what it fills, in the tensor's shape; written.
        stored: the format of the files.
        needless: whether files may hold the tensor of a name although the model computes without it.
        copies: name of such a tensor -> the parameter that it must equal.
        progress: whether to show a bar on standard error.

    Raises:
        CheckpointError: a file or tensor is missing, or a tensor is not expected, is misshapen, or is of a type that
            does not fit, or a copy is none; names tensor, file and both shapes.
    """
    files = find_files(folder)
    copied: dict[str, Path] = {}
    missing, left_out = {name for name in parameters if not stored.is_made(name)}, list[str]()
    paths = list(files)
    read_ahead(paths[:1])
    with tqdm(total=len(missing), desc="Loading weights", unit="tensor", disable=not progress) as bar:
        for place, (path, claimed) in enumerate(files.items(), 1):
            read_ahead(paths[place : place + 1])
            names, surplus = _fill_from_file(path, parameters, missing, stored, needless, bar)
            left_out += surplus
            copied |= {name: path for name in surplus if name in copies}
            if absent := claimed - names:
                raise CheckpointError(
                    "the index names this file, but it is not in it", file=str(path), tensor=_first(absent)
                )
        defaults = {name: number for name in sorted(missing) if (number := stored.default(name)) is not None}
        for name, number in defaults.items():
            parameters[name].fill_(number)
        bar.update(len(defaults))
    if defaults:
        log.warning("not in %s, and set to %g: %s", folder, next(iter(defaults.values())), _list(list(defaults)))
    missing -= defaults.keys()
    if missing:
        name = _first(missing)
        raise CheckpointError(
            f"missing; expected {_size(name, parameters[name], stored)} ({len(missing)} tensors are missing in all)",
            file=str(folder / INDEX if (folder / INDEX).exists() else next(iter(files))),
            tensor=name,
        )
    for name, path in copied.items():
        _check_copy(path, name, copies[name], parameters)
    if left_out:
        log.warning("left out of %s, as the model computes without: %s", folder, _list(left_out))


def _check_copy(path: Path, name: str, original: str, parameters: Mapping[str, torch.Tensor]) -> None:
    parameter = parameters[original]
    with safe_open(path, framework="pt", device="cpu") as file:
        tensor = file.get_tensor(name)
    if tensor.shape != parameter.shape or not torch.equal(tensor.to(parameter.dtype), parameter.cpu()):
        raise CheckpointError(
            f"differs from {original}, although tie_word_embeddings in config.json says that both are one; "
            f"""--hf-overrides '{{"tie_word_embeddings": false}}' computes with it""",
            file=str(path),
            tensor=name,
        )


def read_ahead(paths: list[Path]) -> None:
    """Have the system read the files while others are copied: a copy asks for their pages one after the other."""
    if not hasattr(os, "posix_fadvise"):  # macOS has none
        return
    for path in paths:
        with contextlib.suppress(OSError), path.open("rb") as file:  # whoever opens it to read it tells what is wrong
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _fill_from_file(
    path: Path,
    parameters: Mapping[str, torch.Tensor],
    missing: set[str],
    stored: Format,
    needless: Callable[[str], bool],
    bar: tqdm[NoReturn],
) -> tuple[set[str], list[str]]:
    """Fill the parameters that `path` holds, take them out of `missing`; return the names in it, and those left out."""
    left_out: list[str] = []
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for name in sorted(names):
                usual = stored.usual_name(name)
                if usual not in parameters and needless(usual):
                    left_out.append(name)
                    continue
                members = find_members(name, parameters)
                filled = set(itertools.chain(*members)) or {usual}
                if not filled <= missing:
                    raise CheckpointError(
                        f"holds {min(filled - missing)}, which is there already; keep one of them"
                        if members
                        else _why_surplus(usual, file.get_slice(name).get_shape(), parameters, stored),
                        file=str(path),
                        tensor=name,
                    )
                if members:
                    _fill_members(parameters, name, members, file.get_tensor(name), path, stored)
                else:
                    _fill(parameters, (name, usual), file.get_tensor(name), path, stored)
                missing -= filled
                bar.update(len(filled))
    except FileNotFoundError as exc:
        raise CheckpointError("not found, though the index names it; download it again", file=str(path)) from exc
    except OSError as exc:
        raise CheckpointError(f"cannot be read: {exc}", file=str(path)) from exc
    except SafetensorError as exc:
        raise CheckpointError(f"is not a whole safetensors file ({exc}); download it again", file=str(path)) from exc
    return names, left_out


def _fill_members(
    parameters: Mapping[str, torch.Tensor],
    name: str,
    members: list[list[str]],
    tensor: torch.Tensor,
    path: Path,
    stored: Format,
) -> None:
    """Fill `members`, what a layer's experts are, from the one tensor that holds them all."""
    _check_shape(tensor, shape_of(members, parameters), path, name)
    first = members[0][0]
    if tensor.dtype == FP8 and FP8 in stored.stored_as(first, parameters[first].dtype):
        raise CheckpointError(f"{NO_CODES}, as {first}", file=str(path), tensor=name)
    for member, rows in split(tensor, members, parameters):
        _fill(parameters, (f"{name} ({member})", member), rows, path, stored)


def _fill(
    parameters: Mapping[str, torch.Tensor], names: tuple[str, str], tensor: torch.Tensor, path: Path, stored: Format
) -> None:
    """Fill a parameter from the tensor whose names in the file and in the parameters are `names`."""
    name, usual = names
    parameter = parameters[usual]
    if stored.is_single(usual):
        if tensor.numel() != 1:
            raise CheckpointError(
                f"has shape {tuple(tensor.shape)}, config.json asks for one number", file=str(path), tensor=name
            )
        tensor = tensor.view(1).expand(parameter.shape)
    _check_shape(tensor, parameter.shape, path, name)
    accepted = stored.stored_as(usual, parameter.dtype)
    if tensor.dtype not in accepted:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in accepted)
        raise CheckpointError(
            f"is {str(tensor.dtype).removeprefix('torch.')}, but config.json asks for {wanted}",
            file=str(path),
            tensor=name,
        )
    if complaint := stored.complaint(usual, tensor):
        raise CheckpointError(complaint, file=str(path), tensor=name)
    if parameter.is_cuda and _goes_by_pinned_memory(tensor, parameter):
        tensor = tensor.pin_memory()
    stored.put(usual, tensor, parameters)


def _check_shape(tensor: torch.Tensor, shape: Sequence[int], path: Path, name: str) -> None:
    if tensor.shape != tuple(shape):
        raise CheckpointError(
            f"has shape {tuple(tensor.shape)}, config.json asks for {tuple(shape)}", file=str(path), tensor=name
        )


def _goes_by_pinned_memory(tensor: torch.Tensor, parameter: torch.Tensor) -> bool:
    """Whether that copies `tensor` sooner: nothing is converted, no number stands for several, and it is of such a size."""
    return tensor.dtype == parameter.dtype and tensor.is_contiguous() and tensor.nbytes in PINNED_BYTES


def _size(name: str, parameter: torch.Tensor, stored: Format) -> str:
    return "as one number" if stored.is_single(name) else f"with shape {tuple(parameter.shape)}"


def _why_surplus(name: str, shape: Iterable[int], parameters: Mapping[str, torch.Tensor], stored: Format) -> str:
    if name in parameters and stored.is_made(name):
        return "is not expected: it is made as the weights are loaded, so leave --quantization out, or take a plain checkpoint"
    if name in parameters:
        return "is there twice, in two files, under another name or in a tensor of all experts; keep one of them"
    if is_scale(name):
        return NO_CODES
    return f"shape {tuple(shape)}, is not expected; config.json describes a model without it"


def _list(names: list[str]) -> str:
    """The first of `names`, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _first(names: set[str]) -> str:
    return min(names)
