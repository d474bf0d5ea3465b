"""A process of the draft's user that has no business at its socket.

It connects silently, under a target's name, with garbage, and closes again; says so; and keeps its
silent connections until its standard input ends. Arguments: the target's id, the sockets' paths."""

from __future__ import annotations

import contextlib
import socket
import sys

NUM_ROUNDS = 100
GARBAGE = (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", bytes(100_000), b"\x91" * 5000)


def connect(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.connect(path)
    return end


def say(end: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # dismissed already
        end.send(data)


def disturb(path: str, name: bytes) -> socket.socket:
    connect(path).close()
    under_its_name = [connect(path), connect(path)]
    for end in under_its_name:
        say(end, name)
        say(end, GARBAGE[0])
    for data in GARBAGE:
        end = connect(path)
        say(end, data)
        end.shutdown(socket.SHUT_WR)
    for end in under_its_name:
        end.close()
    return connect(path)


def main(name: str, paths: list[str]) -> None:
    silent = [disturb(path, name.encode()) for _ in range(NUM_ROUNDS) for path in paths]
    sys.stdout.write(f"{len(silent)}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
