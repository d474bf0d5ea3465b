"""What the README shows is so: every file has its line, every example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def listed(room: str) -> set[str]:
    """The files that the README lists below a room's heading line."""
    part = TEXT.split(f"\n`{room}/`: ")[1].split("\n\n")[1]
    return {line.split()[0] for line in part.splitlines()}


@pytest.mark.parametrize("room", ["ssd_core", "autoscale", "deployments", "cluster"])
def test_every_file_has_its_line(room: str) -> None:
    modules = {str(path.relative_to(ROOT / room)) for path in (ROOT / room).rglob("*.py") if path.name != "__init__.py"}
    names = listed(room)
    assert modules - names == set(), "not in the README"
    assert {name for name in names if not (ROOT / room / name).exists()} == set(), "in the README only"


def test_the_commands_shown_exist() -> None:
    from cluster.cli import build_parser

    for command in sorted(set(re.findall(r"^    ssd-serve (\w+)", TEXT, re.MULTILINE))):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([command, "--help"])
        assert ended.value.code == 0


def test_the_configuration_shown_is_valid(tmp_path: Path) -> None:
    from cluster.config import load_config

    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "shown.yaml").write_text(block)
    assert load_config(tmp_path / "shown.yaml").service.draft.num_actors == 1


@pytest.mark.pair
@pytest.mark.service
@pytest.mark.timeout(420)
@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL), ids=["one process", "through Ray Serve"])
def test_the_python_shown_runs(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout) > 20
