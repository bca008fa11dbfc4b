"""What the user says of how a model's numbers are kept, beside what its config.json says."""

from __future__ import annotations

import dataclasses

from octavo.config.quantization import KvFormat, Quantization

KV_CACHE_DTYPES: dict[str, KvFormat | None] = {
    "auto": None,
    "bfloat16": KvFormat.BF16,
    "fp8": KvFormat.FP8,
    "fp8_e4m3": KvFormat.FP8,
}
"""vLLM's names; None: as the checkpoint was made for."""


@dataclasses.dataclass(frozen=True)
class FormatChoice:
    """`--kv-cache-dtype`."""

    kv_cache_dtype: str = "auto"

    def apply(self, stated: Quantization) -> Quantization:
        """The format of a model whose config.json states `stated`."""
        kv_cache = KV_CACHE_DTYPES[self.kv_cache_dtype]
        return stated if kv_cache is None else dataclasses.replace(stated, kv_cache=kv_cache)


AS_STATED = FormatChoice()
