"""The brain: requests, schedule, KV block accounting, prefix index. No tensors."""

from octavo.engine.engine import Engine
from octavo.engine.loop import EngineLoop
from octavo.engine.processes.link import WorkerLink
from octavo.engine.request import Request
from octavo.engine.statistics import EngineStatus, StepLog, StepRecord
from octavo.engine.update import FinishReason, Update

__all__ = [
    "Engine",
    "EngineLoop",
    "EngineStatus",
    "FinishReason",
    "Request",
    "StepLog",
    "StepRecord",
    "Update",
    "WorkerLink",
]
