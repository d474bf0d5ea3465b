from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.cli import build_parser, main
from cluster.local import LocalService
from ssd_core.config import PRESETS


@pytest.mark.parametrize("command", ["demo", "up", "generate", "bench", "plan", "validate"])
def test_every_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  ssd-serve {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sing"],
        ["bench", "--temperature", "nan"],
        ["bench", "--temperature", "-1"],
        ["bench", "--presets", "ar,xyz"],
        ["bench", "--presets", "ar,ar"],
        ["bench", "--peers", "ar"],
        ["bench", "--peers", "hf-plain,hf-plain"],
        ["bench", "--prompts", "0"],
        ["bench", "--url", "http://x", "--config", "demo"],
        ["plan"],
        ["plan", "f.yaml", "--bench", "b.json"],
        ["plan", "f.yaml", "--draft-step-ms", "0"],
        ["plan", "f.yaml", "--concurrency", "0"],
        ["generate", "x", "--preset", "xyz"],
        ["generate", "x", "--lookahead", "99"],
        ["generate", "x", "--seed", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_a_valid_configuration_is_exit_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "two-by-two"]) == 0
    assert "2 x embedded:draft" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["validate", "{}"], ["up", "{}"], ["bench", "--config", "{}"]], ids=" ".join)
def test_a_bad_configuration_is_exit_code_2_before_anything_starts(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("service: {target: {num_replicas: 0}}")
    assert main([word.format(tmp_path / "bad.yaml") for word in words]) == 2
    assert "bad.yaml: service.target.num_replicas = 0: Input should be greater than or equal to 1" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["validate", "{}"], ["up", "{}"], ["bench", "--config", "{}"]], ids=" ".join)
def test_files_that_a_configuration_names_are_looked_at_before_anything_starts(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalService, "__enter__", lambda service: pytest.fail("it was started"))
    file = tmp_path / "bad.yaml"
    service = {
        "target": {"engine": {"model": f"{tmp_path}/none"}},
        "draft": {"engine": {"model": "fake:it"}},
        "api_keys_file": f"{tmp_path}/keys",
    }
    file.write_text(json.dumps({"service": service}))
    assert main([word.format(file) for word in words]) == 2
    told = capsys.readouterr().err.removeprefix("ssd-serve: ").splitlines()
    for line, start in zip(told, ("target.engine.model: the folder", "draft.engine.model: 'fake:it'", "api_keys_file = "), strict=True):
        assert line.startswith(f"{file}: service.{start}")


def test_a_folder_of_a_shipped_examples_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert main(["validate", "demo"]) == 0
    (tmp_path / "two-by-two").write_text("http: {port: 1}")
    assert main(["validate", "two-by-two"]) == 0
    assert "127.0.0.1:1," in capsys.readouterr().out


def test_what_only_the_hub_has_is_not_called_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hub.yaml"
    file.write_text("service: {target: {engine: {model: nobody/nothing}}}")
    assert main(["validate", str(file)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}: not checked: service.target.engine.model: 'nobody/nothing' is not in the cache of the hub")
    assert second == f"{file}: the rest is valid"


def test_too_many_prompts_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--prompts", "1000000"]) == 2


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--concurrency", "8"], "--concurrency = 8: a peer answers one request at a time"),
        (["--url", "http://127.0.0.1:9"], "--url = http://127.0.0.1:9: peers run the models of a service's configuration"),
    ],
    ids=["concurrency", "url"],
)
def test_peers_where_they_cannot_be_compared_are_exit_code_2(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--peers", "hf-assisted", *words]) == 2
    assert why in capsys.readouterr().err


def test_no_service_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--url", "http://127.0.0.1:9"]) == 1
    assert "http://127.0.0.1:9: " in capsys.readouterr().err


class _Service(BaseHTTPRequestHandler):
    """Just enough of the REST interface; answers with the preset's name where `answers_differ`."""

    answers_differ = False

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": "m"}]}) if self.path == "/v1/models" else "x_total 1\n"
        self._send(body.encode())

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if request["prompt"] == "bad":
            self._send(json.dumps({"error": {"message": "prompt: no good"}}).encode(), status=400)
        elif request["stream"]:
            pieces = [{"choices": [{"text": text}]} for text in ("one ", "two")] + [{"choices": []}]
            self._send("".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces).encode() + b"data: [DONE]\n\n")
        else:
            self._send(json.dumps(self._completion(request)).encode())

    def _completion(self, request: dict[str, object]) -> dict[str, object]:
        told = {"rounds": 4, "num_spec_steps": 3, "num_draft_tokens": 9, "num_accepted_draft_tokens": 6}
        account = told | {"accepted_per_position": [3, 2, 1], "draft_wait_s": 0.1}
        tokens = [len(str(request["preset"])) if self.answers_differ else 1] * 8
        return {
            "choices": [{"text": "same", "token_ids": tokens}],
            "metrics": {"time_to_first_token_s": 0.01, "speculative_decoding": account},
        }

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_generate_prints_what_a_service_streams(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "x", "--url", service]) == 0
    assert capsys.readouterr().out == "one two\n"


def test_the_services_refusal_is_repeated(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "bad", "--url", service]) == 1
    assert "answered 400: prompt: no good" in capsys.readouterr().err


def test_bench_measures_a_service_and_writes_json(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--url", service, "--prompts", "2", "--concurrency", "2", "--json", str(tmp_path / "b.json")]
    assert main(words) == 0
    assert "identical tokens: yes" in capsys.readouterr().out
    content = json.loads((tmp_path / "b.json").read_text())
    assert content["command"].startswith("ssd-serve bench --url")
    assert {row["preset"] for row in content["rows"]} == set(PRESETS)


def test_differing_tokens_are_exit_code_1(service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_Service, "answers_differ", True)
    assert main(["bench", "--url", service, "--prompts", "1"]) == 1
    assert "identical tokens: NO" in capsys.readouterr().out
