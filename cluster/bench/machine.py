"""The machine a number was measured on."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    num_cores: int
    """Cores this process may use."""
    gpus: tuple[str, ...]
    system: str
    python: str

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.cpu}, {self.num_cores} cores{gpus}, {self.system}, Python {self.python}"


def this_machine() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=_first(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo")) or platform.processor() or platform.machine(),
        num_cores=cores,
        gpus=tuple(_first(r"Model:\s*(.+)", path) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def _first(pattern: str, path: Path) -> str:
    try:
        found = re.search(pattern, path.read_text())
    except OSError:
        return ""
    return found[1].strip() if found else ""
