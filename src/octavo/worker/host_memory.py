"""How much memory of the machine a process may still take before the kernel kills one."""

from __future__ import annotations

from pathlib import Path

from octavo.errors import ConfigError

GIB = 2**30
UNLIMITED = 2**60
"""Limits beyond this many bytes are the kernel's way to say that there is none."""


def free_host_bytes(root: Path = Path("/")) -> int:
    """Bytes that the machine has free, or the tightest control group that this process is in, as a container is.

    Files that were read and can be dropped count as free.

    Args:
        root: where `proc` and `sys` lie.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            free = min(free, _free_up_from(root / "sys/fs/cgroup", path, "memory.max", "memory.current", ""))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            free = min(free, _free_up_from(root / "sys/fs/cgroup/memory", path, *names))
    return max(0, free)


def _free_up_from(mount: Path, path: str, limit: str, usage: str, prefix: str) -> int:
    """The least that is free in the group at `path` and in all above it.

    In a container `path` may be the host's name for the group that is seen at `mount`: what is not there limits nothing.
    """
    group = mount / path.strip("/")
    return min(
        _free_in(folder, limit, usage, prefix)
        for folder in (group, *group.parents)
        if mount in (folder, *folder.parents)
    )


def _free_in(group: Path, limit: str, usage: str, prefix: str) -> int:
    try:
        most = (group / limit).read_text().strip()
        if most == "max" or int(most) >= UNLIMITED:
            return UNLIMITED
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = sum(int(stat.get(f"{prefix}{state}_file", 0)) for state in ("active", "inactive"))
        return int(most) - int((group / usage).read_text()) + files
    except (OSError, ValueError):
        return UNLIMITED


def require_room(num_bytes: int, free_bytes: int, setting: str, what: str) -> None:
    """Refuse what does not fit before it is allocated: on a host the kernel would kill some process instead.

    Raises:
        ConfigError: `num_bytes` are more than `free_bytes`; names `setting` and `what` needs them.
    """
    if num_bytes > free_bytes:
        raise ConfigError(
            setting, f"{what} {num_bytes / GIB:,.1f} GiB of memory, but {max(0, free_bytes) / GIB:,.1f} GiB are free"
        )
