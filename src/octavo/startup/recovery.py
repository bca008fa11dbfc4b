"""What the settings ask for beside recovery: deaths written down, and deaths on purpose."""

from __future__ import annotations

import logging
from pathlib import Path

from octavo.config import Settings
from octavo.engine.recovery.crash_log import CrashLog
from octavo.engine.recovery.fault_injection import FaultInjector, parse_fault
from octavo.errors import ConfigError
from octavo.messages import FaultKind, WorkerConfig

log = logging.getLogger(__name__)


def crash_log(settings: Settings, config: WorkerConfig) -> CrashLog | None:
    """Makes the crash log; None if the settings want none, or the default is in the home folder of a user without one.

    Raises:
        ConfigError: the folder asked for is in the home folder of a user who has none.
    """
    if settings.crash_dir is None:
        return None
    try:
        folder = Path(settings.crash_dir).expanduser().absolute()
    except RuntimeError:
        if settings.crash_dir == Settings.crash_dir:
            log.warning("deaths of workers are not written down: this user has no home folder; --crash-dir names one")
            return None
        message = f"{settings.crash_dir}: this user has no home folder; name another folder, or none to write nothing"
        raise ConfigError("crash_dir", message) from None
    keep = settings.crash_keep_prompts
    return CrashLog(folder, config, most=settings.max_crash_folders, keep_prompts=keep)


def fault_injector(settings: Settings, device: str) -> FaultInjector | None:
    """Makes what injects the faults that the settings ask for; None if they ask for none.

    Raises:
        ConfigError: one of them makes no sense, or none on this device.
    """
    faults = [parse_fault(text) for text in settings.inject_fault]
    if device != "cuda" and any(fault.kind is FaultKind.OUT_OF_BOUNDS for fault in faults):
        raise ConfigError("inject_fault", "out-of-bounds is a fault of CUDA kernels; on a CPU, use kill")
    return FaultInjector(faults) if faults else None
