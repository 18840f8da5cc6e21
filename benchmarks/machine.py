"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str]:
    """Processor, memory and versions, to be shown as they are."""
    processor = _first("/proc/cpuinfo", "model name") or platform.machine()
    kilobytes = int(_first("/proc/meminfo", "MemTotal").split()[0])
    packages = ("torch", "ray", "transformers", "safetensors")
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "memory": f"{kilobytes * 1024 / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{package} {version(package)}" for package in packages),
    }


def _first(file: str, name: str) -> str:
    lines = Path(file).read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
