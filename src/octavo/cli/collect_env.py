"""`octavo collect-env`: what a bug report needs to say about the machine. No host names, no user names, no keys."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from octavo.cli.parsers import Commands, add_command
from octavo.version import __version__


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "collect-env", run, "Print versions and hardware, for a bug report.")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    env = collect()
    if args.json:
        print(json.dumps(env, indent=2))
        return 0
    for section, values in env.items():
        print(f"[{section}]")
        for name, value in values.items():
            print(f"{name + ':':<24} {value}")
        print()
    return 0


def collect() -> dict[str, dict[str, Any]]:
    """Section to name to value."""
    return {
        "octavo": {"version": __version__, **_settings()},
        "system": {
            "os": platform.platform(),
            "python": platform.python_version(),
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        },
        "gpu": _gpus(),
        "packages": _packages(),
    }


def _settings() -> dict[str, str]:
    """Environment variables that set something; keys and tokens are only said to be there."""
    return {
        name: "***" if "KEY" in name or "TOKEN" in name else value
        for name, value in sorted(os.environ.items())
        if name.startswith(("OCTAVO_", "VLLM_")) or name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return match[1] if match else platform.machine()


def _gpus() -> dict[str, str]:
    """Name, driver and memory of each GPU, as nvidia-smi tells."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {"nvidia-smi": "not found"}
    query = [tool, "--query-gpu=index,name,driver_version,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        return {"nvidia-smi": f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"}
    rows = [line.split(", ", 1) for line in done.stdout.strip().splitlines()]
    return {f"gpu {index}": rest for index, rest in rows}


def _packages() -> dict[str, str]:
    """Octavo's dependencies with their installed versions."""
    names = [re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in metadata.requires("octavo") or []]
    installed: dict[str, str] = {}
    for name in dict.fromkeys(names):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
