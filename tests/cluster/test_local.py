"""What is started is stopped, on every path. Processes are found by the folder that only they were told of."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.commands.demo import SHOWN_PROMPT
from ssd_core.config import PRESETS

pytestmark = [pytest.mark.service, pytest.mark.timeout(420)]

SSD_SERVE = (sys.executable, "-m", "cluster.cli")

FAILING_APP = """
from ray import serve
from cluster.config import RootConfig
from cluster.local import LocalService, StartError

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Failing:
    def __init__(self):
        raise ValueError("the model does not fit")

try:
    with LocalService(RootConfig(http={"port": 0}), build_app=lambda config: Failing.bind()):
        pass
except StartError as error:
    assert "the model does not fit" in str(error), error
    raise SystemExit(0)
raise SystemExit("came up")
"""


@pytest.fixture
def temp_dir() -> Iterator[Path]:
    """TMPDIR of the commands: short, for the sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(temp_dir: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"TMPDIR": str(temp_dir), "RAY_TMPDIR": str(temp_dir)}


def assert_nothing_is_left(temp_dir: Path) -> None:
    assert not list(temp_dir.glob("ssd-*")), "the folder of the local Ray is still there"
    left = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if str(temp_dir) in _text(path)]
    assert not left, f"processes are still there: {left}"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # the process has just ended
        return ""


@pytest.mark.pair
def test_the_demo_shows_identical_tokens_and_leaves_nothing_behind(temp_dir: Path, tmp_path: Path) -> None:
    words = ["demo", "--prompts", "1", "--max-tokens", "24", "--out", str(tmp_path / "results")]
    done = subprocess.run([*SSD_SERVE, *words], env=environment(temp_dir), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SHOWN_PROMPT in done.stdout
    assert "all presets returned identical tokens: yes" in done.stdout
    content = json.loads((tmp_path / "results" / "demo.json").read_text())
    assert {(row["temperature"], row["preset"]) for row in content["rows"]} == {
        (temperature, preset) for temperature in (0.0, 0.8) for preset in PRESETS
    }
    assert all(row["num_tokens"] == 24 for row in content["rows"])
    assert (tmp_path / "results" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert_nothing_is_left(temp_dir)


@pytest.mark.pair
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM], ids=lambda kind: kind.name)
def test_up_ends_on_a_signal_and_leaves_nothing_behind(kind: signal.Signals, temp_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("http: {port: 0}\nservice: {draft: {num_actors: 0}}\n")
    process = subprocess.Popen(
        [*SSD_SERVE, "up", str(tmp_path / "own.yaml")],
        env=environment(temp_dir),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            kind, signal.SIG_DFL
        ),  # a shell's background job, as tests may be, hands down that it ignores SIGINT
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("up at http://127.0.0.1:")
        process.send_signal(kind)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert_nothing_is_left(temp_dir)


def test_a_service_that_cannot_start_says_why_and_leaves_nothing_behind(temp_dir: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FAILING_APP], env=environment(temp_dir), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_nothing_is_left(temp_dir)
