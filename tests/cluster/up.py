"""`ssd-serve up`, as a user starts it: in a folder of its own, by the installed command."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

SSD_SERVE = Path(sys.executable).with_name("ssd-serve")


@dataclass
class Up:
    process: subprocess.Popen[str]
    url: str
    joining: dict[str, str]

    @property
    def parts(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def listeners(self) -> set[tuple[str, int]]:
        pids = {part.pid for part in self.parts}
        found = psutil.net_connections("tcp")
        return {(one.laddr.ip, one.laddr.port) for one in found if one.pid in pids and one.status == psutil.CONN_LISTEN}


def environment(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHONPATH"))}
    return kept | {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}


def start(folder: Path, name: str, fields: str) -> Up:
    """A service of this name, with more fields of ServiceConfig, once it is ready. Its standard error is the test's."""
    (folder / f"{name}.yaml").write_text(f"http: {{port: 0}}\nservice: {{model_name: {name}, {fields}}}\n")
    command = [str(SSD_SERVE), "up", f"{name}.yaml"]
    process = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = process.stdout.readline().removeprefix("up at ").partition(";")[0]
    process.stdout.readline()
    words = process.stdout.readline().partition("handle: ")[2].split()
    return Up(process, url, dict(word.split("=", 1) for word in words))
