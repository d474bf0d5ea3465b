"""What KubeRay does with the base manifest, on this machine: it starts Ray with the pods' commands, and puts `serveConfigV2` to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.ports import free_port, serve_environment
from cluster.processes import Marked
from deployments.serve_environment import CLUSTER_ENVIRONMENT
from tests.k8s.manifests import ROOT, Manifest, serve_config

pytestmark = [pytest.mark.service, pytest.mark.pair, pytest.mark.timeout(420)]

TOKEN = "6c" * 32
KEY = "a-key"
MARK = "SSD_REHEARSAL"


@dataclass
class Cluster:
    dashboard: httpx.Client
    service: httpx.Client
    config: Manifest
    log: Path
    """Of the start commands."""

    def put(self, config: Manifest) -> None:
        answer = self.dashboard.put("/api/serve/applications/", json=config)
        assert answer.status_code == 200, answer.text

    def application(self) -> dict[str, Any]:
        told: dict[str, Any] = self.dashboard.get("/api/serve/applications/").json()["applications"].get("ssd", {})
        return told

    def model(self) -> str:
        """The name the service gives its model. Empty while the only target's place is taken over: clients are told to come again."""
        answer = self.service.get("/v1/models")
        if answer.status_code == 503 and "retry-after" in answer.headers:
            return ""
        assert answer.status_code == 200, (answer.status_code, answer.text)
        name: str = answer.json()["data"][0]["id"]
        return name

    def state(self) -> object:
        """Ray's nodes, their commands' output, and the application's parts."""
        return self.nodes(), self.log.read_text(), self.application().get("deployments")

    def nodes(self) -> list[Any]:
        """Labels and resources of those that are alive."""
        nodes = self.dashboard.get("/nodes", params={"view": "summary"}).json()["data"]["summary"]
        return [(node["raylet"]["labels"], node["raylet"]["resourcesTotal"]) for node in nodes if node["raylet"]["state"] == "ALIVE"]

    def runs(self) -> bool:
        application = self.application()
        assert application.get("status") not in ("DEPLOY_FAILED", "UNHEALTHY"), application["message"]
        return application.get("status") == "RUNNING"


def eventually(holds: Callable[[], bool], timeout_s: float, why: Callable[[], object] = str) -> None:
    """What is observed lies in other processes, so it is asked again and again. `why` says what there was instead."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s: {why()}"
        time.sleep(0.2)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code < 500
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    service = next(yaml.safe_load_all((ROOT / "k8s/base/rayservice.yaml").read_text()))
    pods, config = service["spec"]["rayClusterConfig"], serve_config(service)
    folder = Path(tempfile.mkdtemp(prefix="t-", dir="/tmp"))
    mark = str(os.getpid())
    gcs, dashboard, port = (free_port("127.0.0.1") for _ in range(3))
    (folder / "keys").write_text(f"{KEY}\n")
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    config["applications"][0]["args"]["api_keys_file"] = str(folder / "keys")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {
        **kept, **CLUSTER_ENVIRONMENT, **serve_environment(folder),
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), MARK: mark,
    }  # fmt: skip

    def start(*words: str, **parameters: str) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        agent = f"--dashboard-agent-listen-port={free_port('127.0.0.1')}"
        with (folder / "ray.log").open("ab") as log:
            named = [f"--{name}={value}" for name, value in parameters.items()]
            subprocess.Popen([ray, "start", "--block", agent, *words, *named], env=environment, stdout=log, stderr=log, cwd=folder)

    processes = Marked(MARK, mark)
    try:
        local = {"dashboard-host": "127.0.0.1", "dashboard-port": str(dashboard), "temp-dir": str(folder)}
        own = {"node-ip-address": "127.0.0.1", "ray-client-server-port": str(free_port("127.0.0.1")), **local}
        start("--head", f"--port={gcs}", **pods["headGroupSpec"]["rayStartParams"] | own)
        url = f"http://127.0.0.1:{dashboard}"
        eventually(lambda: answers(f"{url}/api/version"), 60, (folder / "ray.log").read_text)
        with (
            httpx.Client(base_url=url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as told,
            httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client,
        ):
            cluster = Cluster(told, client, config, folder / "ray.log")
            for number, group in enumerate(pods["workerGroupSpecs"], start=2):
                labels = ",".join(f"{name}={value}" for name, value in group["labels"].items())
                start(f"--address=127.0.0.1:{gcs}", f"--labels={labels}", "--num-cpus=2", **group["rayStartParams"])
                eventually(lambda number=number: len(cluster.nodes()) == number, 60, cluster.state)  # type: ignore[misc]
            yield cluster
    finally:
        processes.end(0.0)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_manifests_config_comes_up_and_changes_in_place(cluster: Cluster) -> None:
    assert httpx.get(f"{cluster.dashboard.base_url}/api/serve/applications/").status_code in (401, 403), "the dashboard wants the token"
    cluster.put(cluster.config)
    eventually(cluster.runs, 180, cluster.state)
    eventually(lambda: cluster.service.get("/ready").status_code == 200, 60)
    body = {"prompt": "import os\n", "max_tokens": 16, "temperature": 0, "n": 2}
    first = cluster.service.post("/v1/completions", json=body)
    assert first.status_code == 200, first.text

    def speculates() -> bool:
        """Whether the draft's node was found, and the draft is heard."""
        answer = cluster.service.post("/v1/completions", json=body | {"n": 1, "max_tokens": 128, "ignore_eos": True}).json()
        return bool(answer["metrics"]["speculative_decoding"]["num_accepted_draft_tokens"])

    eventually(speculates, 60)

    changed = cluster.config
    changed["applications"][0]["args"]["model_name"] = "renamed"
    cluster.put(changed)
    eventually(lambda: cluster.model() == "renamed", 180)
    eventually(cluster.runs, 60, cluster.state)
    again = cluster.service.post("/v1/completions", json=body | {"model": "renamed"})
    assert [choice["text"] for choice in again.json()["choices"]] == [choice["text"] for choice in first.json()["choices"]]
