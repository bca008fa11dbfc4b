"""Experts of a layer that a checkpoint holds in one tensor, as those of Qwen3.5-MoE in bf16 do.

`mlp.experts.gate_up_proj` (E, 2 I, H) has the rows of each expert's gate and then of its up, `mlp.experts.down_proj` (E, H, I) those
of its down (transformers' `Qwen3_5MoeExperts`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch

EXPERTS = ".mlp.experts."
PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""What a tensor of all experts holds of each, in the order of its rows."""
NO_CODES = (
    "FP8 codes of all experts of a layer in one tensor, and their scales, are not served; store each expert by itself"
)


def find_members(name: str, parameters: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """The parameters that the tensor `name` of a file holds: of each expert, in the order of its rows; none if it is no such tensor."""
    prefix, found, part = name.rpartition(EXPERTS)
    if not found or part not in PARTS:
        return []
    each = ([f"{prefix}{EXPERTS}{expert}.{own}.weight" for own in PARTS[part]] for expert in itertools.count())
    return list(itertools.takewhile(lambda members: members[0] in parameters, each))


def is_scale(name: str) -> bool:
    """Whether the tensor `name` of a file has the scales of codes of all experts of a layer."""
    prefix, found, part = name.rpartition(EXPERTS)
    return bool(prefix and found) and part.startswith(tuple(PARTS)) and "_scale" in part


def shape_of(members: list[list[str]], parameters: Mapping[str, torch.Tensor]) -> tuple[int, int, int]:
    """(experts, rows of one, columns) of the tensor that holds `members`."""
    rows = sum(parameters[member].shape[0] for member in members[0])
    return len(members), rows, parameters[members[0][0]].shape[1]


def split(
    tensor: torch.Tensor, members: list[list[str]], parameters: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each of `members` and its rows of `tensor`, which has the shape that `shape_of` gives: contiguous views."""
    for names, expert in zip(members, tensor, strict=True):
        yield from zip(names, expert.split([parameters[name].shape[0] for name in names]), strict=True)
