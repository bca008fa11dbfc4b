"""The rotary embedding that a model's `config.json` states: its base, the share of a head that it turns, its scaling."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from octavo.config.json_fields import MOST_POSITIONS, JsonFields


@dataclasses.dataclass(frozen=True)
class Yarn:
    """YaRN: fast frequencies stay, slow ones are divided by the factor, and those between are mixed."""

    original_positions: int
    """Of the model before it was stretched."""
    beta_fast: float
    """Turns within the original positions from which on a frequency stays."""
    beta_slow: float
    """Turns up to which a frequency is divided by the whole factor."""
    truncate: bool
    """Whether the borders between the three are whole numbers."""
    attention_factor: float
    """What sines and cosines are multiplied by."""


@dataclasses.dataclass(frozen=True)
class Rope:
    """Angles of position * theta^(-2i / width), i < width / 2, for the first `width` numbers of a head."""

    theta: float
    width: int
    factor: float = 1.0
    """What frequencies are divided by: all of them, or as `yarn` says."""
    yarn: Yarn | None = None

    def positions(self, stated: int) -> int:
        """Most tokens of a request, where `max_position_embeddings` is `stated`: as many more as the scaling makes room for."""
        return int((self.yarn.original_positions if self.yarn else stated) * self.factor)


SHARED = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
OF_KIND: dict[str, set[str]] = {
    "default": set(),
    "linear": {"factor"},
    "yarn": {
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
}
"""Scaling -> the fields that it takes."""
YARN_OF_VLLM = {"attn_factor", "extrapolation_factor"}
"""vLLM's own fields of YaRN, which change nothing where they are 1, their default."""
DYNAMIC = (
    "its frequencies change with the length of a request, and so would keys that are cached: a request's tokens could "
    "not have the same bits however it is cut"
)


def read_rope(fields: JsonFields, *, head_dim: int, theta: float, share: float | None) -> Rope:
    """The rotary embedding, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`, which has precedence.

    Args:
        fields: of config.json.
        head_dim: numbers of a head.
        theta: the family's default.
        share: the family's default of `partial_rotary_factor`; None: whole heads are turned, and nothing else is served.

    Raises:
        CheckpointError: a field is of the wrong type, out of range, or states something not served.
    """
    new, old = (_read_object(fields, name) for name in ("rope_parameters", "rope_scaling"))
    lasting = {name: new[name] for name in ("rope_theta", "partial_rotary_factor") if name in new}
    stated = lasting | old if old else new
    kind = stated.get("rope_type", stated.get("type", "default"))
    if not isinstance(kind, str) or kind not in OF_KIND:
        reason = f": {DYNAMIC}" if kind == "dynamic" else ""
        raise fields.refuse(f"rope scaling {kind!r} is not served{reason}; {', '.join(OF_KIND)} are")
    idle = {name for name in YARN_OF_VLLM & stated.keys() if kind == "yarn" and stated[name] == 1}
    if unknown := stated.keys() - SHARED - OF_KIND[kind] - idle:
        raise fields.refuse(f"rope scaling {kind!r} by {min(unknown)} is not served")
    both = JsonFields(fields.raw | stated, fields.file)
    rope = Rope(both.number("rope_theta", theta), _read_width(both, head_dim, share))
    if kind == "default":
        return rope
    positions = fields.count("max_position_embeddings")
    yarn = _read_yarn(both, positions) if kind == "yarn" else None
    if yarn and rope.theta <= 1:
        raise fields.refuse(f"rope scaling 'yarn' needs a rope_theta above 1, is {rope.theta}")
    default = positions / yarn.original_positions if yarn else None
    factor = both.number("factor", default or 0.0)
    if factor < 1:
        raise fields.refuse(f"rope scaling: factor must be at least 1, is {factor}")
    if yarn:
        yarn = dataclasses.replace(
            yarn, attention_factor=both.number("attention_factor", _attention_factor(both, factor))
        )
    rope = dataclasses.replace(rope, factor=factor, yarn=yarn)
    if rope.positions(positions) > MOST_POSITIONS:
        raise fields.refuse(f"rope scaling: factor {factor} gives more than {MOST_POSITIONS} positions")
    return rope


def _read_object(fields: JsonFields, name: str) -> dict[str, Any]:
    stated = fields.raw.get(name) or {}
    if not isinstance(stated, dict):
        raise fields.refuse(f"{name} must be an object, is {stated!r}")
    return stated


def _read_width(fields: JsonFields, head_dim: int, share: float | None) -> int:
    if share is None:
        if fields.raw.get("partial_rotary_factor", 1.0) != 1.0:
            raise fields.refuse("partial_rotary_factor other than 1 is not served in this family")
        return head_dim
    width = int(head_dim * fields.number("partial_rotary_factor", share))
    if width > head_dim or width < 2 or width % 2:
        raise fields.refuse(
            f"partial_rotary_factor must turn an even number of a head's {head_dim} numbers, not {width}"
        )
    return width


def _read_yarn(fields: JsonFields, positions: int) -> Yarn:
    fast, slow = fields.number("beta_fast", 32.0), fields.number("beta_slow", 1.0)
    if fast < slow:
        raise fields.refuse(f"rope scaling: beta_fast {fast} must not be below beta_slow {slow}")
    original = fields.count("original_max_position_embeddings", positions)
    return Yarn(original, fast, slow, fields.flag("truncate", True), 1.0)


def _attention_factor(fields: JsonFields, factor: float) -> float:
    """YaRN's own, of the two `mscale` if both are there."""

    def scale(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    if "mscale" in fields.raw and "mscale_all_dim" in fields.raw:
        return scale(fields.number("mscale", 1.0)) / scale(fields.number("mscale_all_dim", 1.0))
    return scale(1.0)
