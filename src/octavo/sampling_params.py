"""`SamplingParams` where vLLM's users import it from."""

from octavo.sampling import RequestOutputKind, SamplingParams

__all__ = ["RequestOutputKind", "SamplingParams"]
