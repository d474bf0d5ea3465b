"""Which target replica should take a request: the one a client's session hashes to, unless it is clearly busier than the idlest. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

TOKENS_PER_REQUEST = 64
"""What a request counts whose tokens a replica has not reported yet."""
SLACK_TOKENS = 512
"""A session leaves its replica only for a gain larger than this and than the idlest one's whole load."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What stands before a new request at one replica."""

    outstanding_tokens: float
    """As last reported, about a second ago."""
    num_unreported: int
    """Requests sent there by this router since, and not ended."""

    @property
    def tokens(self) -> float:
        return self.outstanding_tokens + TOKENS_PER_REQUEST * self.num_unreported


def ranked(session_key: str, request_key: str, loads: Mapping[str, ReplicaLoad]) -> list[str]:
    """Replicas, best first. Without a session key the idlest comes first, ties broken by the request's own key."""
    by_load = sorted(loads, key=lambda replica: (loads[replica].tokens, _weight(request_key, replica)))
    if not session_key or not by_load:
        return by_load
    home = max(loads, key=lambda replica: _weight(session_key, replica))
    least = loads[by_load[0]].tokens
    if loads[home].tokens > 2 * least + SLACK_TOKENS:
        return by_load
    return [home, *(replica for replica in by_load if replica != home)]


def _weight(key: str, replica: str) -> int:
    """Rendezvous hashing: a replica that comes or goes moves only its own sessions."""
    return int.from_bytes(hashlib.blake2b(f"{key}\0{replica}".encode(errors="replace"), digest_size=8).digest())
