"""`SamplingParams` where vLLM's users import it from."""

from octavo.sampling import RequestOutputKind, SamplingParams
from octavo.structured_outputs import StructuredOutputsParams

GuidedDecodingParams = StructuredOutputsParams
"""The older name."""

__all__ = ["GuidedDecodingParams", "RequestOutputKind", "SamplingParams", "StructuredOutputsParams"]
