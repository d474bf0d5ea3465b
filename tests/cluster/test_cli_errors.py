"""Whatever is wrong outside the program, each command ends with a line that says so and exit code 1 or 2: never with a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.commands.experiments import FOLDER

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files of every wrong kind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "held").write_text("")
    (tmp_path / "text").write_text("not { JSON: nor [ YAML")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list").write_text("[1, 2]")
    (tmp_path / "object").write_text('{"a": 1}')
    (tmp_path / "deep").write_text("[" * 100_000)
    (tmp_path / "rules.json").write_text((FOLDER / "results" / "lookahead.json").read_text())
    return tmp_path


def words_of(line: str) -> list[str]:
    return line.split()


WRONG_FILES = ("missing", "directory", "text", "bytes", "list", "object", "deep")
READERS = (
    "validate {}",
    "up {}",
    "bench --config {}",
    "plan {}",
    "plan --bench {}",
    "plan --cluster {}",
    "autoscale simulate --trace {}",
    "experiments run rules --costs {}",
    f"loadtest --url {NOWHERE} --trace {{}}",
)


@pytest.mark.parametrize("file", WRONG_FILES)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_the_wrong_kind_is_named(reader: str, file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(reader.format(file))) == 2
    told = capsys.readouterr().err
    assert told.startswith("ssd-serve: ") and file in told


UNWRITABLE = ("directory", "text/below", "/proc/none/below")
"""A folder, below a file, and where nobody may write."""
WRITERS = (
    f"bench --url {NOWHERE} --json {{}}",
    f"bench --url {NOWHERE} --chart {{}}",
    "autoscale simulate burst --targets 2 --json {}",
    "autoscale simulate burst --targets 2 --plot {}",
    "plan object --save {}",
)
FOLDER_WRITERS = (
    "demo --out {}",
    "experiments plot rules --out {}",
    "experiments run rules --out {}",
    "dashboards render --out {}",
    f"loadtest --url {NOWHERE} --rate 1 --seconds 1 --out {{}}",
    "inflate embedded:draft wide {}",
)


@pytest.mark.parametrize("file", UNWRITABLE)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_said_before_the_work(writer: str, file: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(writer.format(file))) == 2
    told = capsys.readouterr()
    assert told.err.startswith("ssd-serve: --") and f" = {file}: " in told.err and not told.out


@pytest.mark.parametrize("file", ["text", "/proc/none/below"])
@pytest.mark.parametrize("writer", FOLDER_WRITERS)
def test_a_folder_that_cannot_be_made_is_said_before_the_work(
    writer: str, file: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_of(writer.format(file))) == 2
    told = capsys.readouterr()
    assert told.err.startswith("ssd-serve: ") and file in told.err and not told.out


ASKERS = ("generate x --url {}", "bench --prompts 1 --url {}", "loadtest --rate 50 --seconds 0.1 --url {}", "dashboards push --url {}")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "http://", "http://[", "http://host:port", "http://host:99999", "ftp://host", "file:///etc/passwd"]
)
@pytest.mark.parametrize("asker", ASKERS)
def test_what_is_no_url_is_wrong_usage(asker: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words_of(asker.format(url)))
    assert ended.value.code == 2
    assert f"argument --url: {url!r}" in capsys.readouterr().err


@pytest.mark.parametrize("url", [NOWHERE, "http://nowhere.invalid"])
@pytest.mark.parametrize("asker", ASKERS)
def test_nobody_at_the_url_is_exit_code_1(asker: str, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(asker.format(url))) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"ssd-serve: {url}")


class _Stranger(BaseHTTPRequestHandler):
    """Some other web server. Answers everything with one body."""

    body = b""

    def log_message(self, *args: object) -> None: ...

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()


@pytest.fixture
def stranger() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


BODIES = (b"", b"<html>", b"[]", b"null", b'{"data": []}', b'{"data": [{"id": "m"}]}', b'data: 5\n\n{"data": "x"}', b"\xff")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("asker", ASKERS[:2])
def test_another_server_at_the_url_is_exit_code_1(
    asker: str, body: bytes, stranger: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_Stranger, "body", body)
    code = main(words_of(asker.format(stranger)))
    told = capsys.readouterr()
    if body == b'{"data": [{"id": "m"}]}' and asker.startswith("generate"):
        assert code == 0 and told.out == "\n", "an answer without events is an empty stream"
    else:
        assert code == 1
        assert f"ssd-serve: {stranger}: the answer is not that of ssd-serve" in told.err


def test_results_of_another_experiment_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experiments", "plot", "rules", "--results", str(folder)]) == 2
    assert "rules.json: experiment = 'lookahead': these are not the results of rules" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("inflate embedded:nothing 8B new", "'embedded:nothing' is not embedded"),
        ("inflate ./missing 8B new", "the folder './missing' does not exist"),
        ("inflate embedded:draft huge new", "shape: 'huge'"),
        ("inflate embedded:draft 8B directory", "FOLDER = directory: it is not empty"),
        ("inflate embedded:draft 8B text", "FOLDER = text: it is a file"),
        ("inflate embedded:draft 8B new --device warp", "device: 'warp'"),
        ("validate nothing-of-that-name", "nothing-of-that-name: no such file, nor a shipped example"),
    ],
)
def test_a_wrong_argument_is_named(line: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(line)) == 2
    assert message in capsys.readouterr().err


# ------------------------------------------------------------ as a process of its own


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from cluster.cli import main; sys.exit(main())", *words]


@pytest.mark.parametrize("words", [["generate", b"\xff"], ["generate", "-"]], ids=["argument", "standard input"])
def test_a_prompt_that_is_no_text_is_exit_code_2(words: list[str | bytes]) -> None:
    done = subprocess.run([*command(), *words], input=b"\xff", capture_output=True)
    assert done.returncode == 2
    assert b"not UTF-8 text" in done.stderr and b"Traceback" not in done.stderr


def test_a_reader_who_leaves_is_no_traceback() -> None:
    process = subprocess.Popen(command("autoscale", "simulate", "burst", "--targets", "2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1


@pytest.mark.parametrize("to_all", [True, False], ids=["Ctrl-C", "SIGTERM"])
def test_a_load_test_that_is_interrupted_ends_at_once_and_quietly(to_all: bool) -> None:
    """A terminal's Ctrl-C reaches the processes that send as well; whoever ends a job sends SIGTERM to the first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        words = ["loadtest", "--clients", "2", "--seconds", "600", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}"]
        process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, start_new_session=True)
        assert process.stderr is not None
        first, _ = listener.accept()
        body = b'{"data": [{"id": "m"}]}'
        first.recv(65536)
        first.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        second, _ = listener.accept()  # one of those that send; it never gets an answer
        os.killpg(process.pid, signal.SIGINT) if to_all else process.terminate()
        assert process.stderr.read() == b"ssd-serve: interrupted\n"
        assert process.wait() == 130
        first.close()
        second.close()
