"""Two services on one host do not meet. The first has keys and is started where files of our packages' names lie about."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cluster.up import SSD_SERVE, Up, environment, start

pytestmark = [pytest.mark.service, pytest.mark.pair, pytest.mark.timeout(420)]

NO_DRAFTS = "draft: {num_actors: 0}"
JOINING = """
import ray
from ray import serve
ray.init(log_to_driver=False)
handle = serve.get_app_handle("ssd").options(stream=True)
print("".join(chunk.text for chunk in handle.generate.remote("def main(", max_tokens=8, temperature=0.0)) != "")
try:
    list(handle.generate.remote("a", n=2))
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short, for the sockets below it."""
    made = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def services(folder: Path) -> Iterator[tuple[Up, Up]]:
    for package in ("deployments", "ssd_core"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("raise ImportError('the wrong package')\n")
    (folder / "keys").write_text("k1\n")
    started = []
    try:
        started.append(start(folder, "first", f"{NO_DRAFTS}, api_keys_file: {folder / 'keys'}"))
        started.append(start(folder, "second", NO_DRAFTS))
        yield started[0], started[1]
    finally:
        for one in started:
            one.process.terminate()
        for one in started:
            one.process.wait(60)


def models(service: Up) -> list[str]:
    answer = httpx.get(service.url + "/v1/models", headers={"authorization": "Bearer k1"}, timeout=30)
    return [model["id"] for model in answer.json()["data"]]


def test_each_answers_for_itself_and_no_port_is_shared(services: tuple[Up, Up]) -> None:
    first, second = services
    for _ in range(20):
        assert (models(first), models(second)) == (["first"], ["second"])
    assert httpx.get(first.url + "/v1/models", timeout=30).status_code == 401
    mine, other = ({port for _, port in service.listeners} for service in services)
    assert mine and other and not mine & other
    assert not {8404, 8500, 9101} & (mine | other)


def test_another_process_joins_and_streams(services: tuple[Up, Up], folder: Path) -> None:
    first, _ = services
    token = Path(first.joining["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600 and token.parent.stat().st_mode & 0o777 == 0o700
    command = [sys.executable, "-c", JOINING]
    done = subprocess.run(command, env=environment(folder) | first.joining, cwd=token.parent, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[0] == "True" and "n: 2" in done.stdout, done.stdout + done.stderr


def test_a_taken_port_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (folder / "taken.yaml").write_text(f"http: {{port: {port}}}\n")
        command = [str(SSD_SERVE), "up", "taken.yaml"]
        done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(f"http.port = {port}: Address already in use")
    assert "Traceback" not in done.stderr


def test_one_goes_and_the_other_serves_on(services: tuple[Up, Up]) -> None:
    """The last one here: it ends the first."""
    first, second = services
    parts = first.parts
    assert any(part.name() == "haproxy" for part in parts)
    first.process.terminate()
    assert first.process.wait(60) == 0
    assert not [part for part in parts if part.is_running() and part.status() != psutil.STATUS_ZOMBIE]
    assert models(second) == ["second"]
