"""What the user says of how a model's numbers are kept, beside what its config.json says."""

from __future__ import annotations

import dataclasses

from octavo.config.quantization import GATES, HEADS_AND_ROUTERS, KvFormat, Quantization, WeightFormat
from octavo.errors import ConfigError

KV_CACHE_DTYPES: dict[str, KvFormat | None] = {
    "auto": None,
    "bfloat16": KvFormat.BF16,
    "fp8": KvFormat.FP8,
    "fp8_e4m3": KvFormat.FP8,
}
"""vLLM's names; None: as the checkpoint was made for."""


ONLINE = Quantization(WeightFormat.FP8_ONLINE, (HEADS_AND_ROUTERS, GATES))
"""What `--quantization fp8` makes of a bfloat16 checkpoint; heads and routers stay as they are."""


@dataclasses.dataclass(frozen=True)
class FormatChoice:
    """`--kv-cache-dtype` and `--quantization`."""

    kv_cache_dtype: str = "auto"
    quantization: str = "auto"

    def apply(self, stated: Quantization) -> Quantization:
        """The format of a model whose config.json states `stated`.

        Raises:
            ConfigError: `quantization` is not what config.json states, nor made of what it states.
        """
        chosen = stated if self.quantization in ("auto", stated.method) else self._made(stated)
        kv_cache = KV_CACHE_DTYPES[self.kv_cache_dtype]
        return chosen if kv_cache is None else dataclasses.replace(chosen, kv_cache=kv_cache)

    def _made(self, stated: Quantization) -> Quantization:
        if stated.method:
            raise ConfigError(
                "quantization", f"is {self.quantization}, but config.json says {stated.method}; leave it out"
            )
        if self.quantization != "fp8":
            raise ConfigError(
                "quantization",
                f"is {self.quantization}, but config.json has no quantization_config; fp8 makes FP8 of such weights",
            )
        return ONLINE


AS_STATED = FormatChoice()
