"""The speculation store: the target's replica of its sessions' trees. Given an outcome it answers with the next speculation, locally.

What drafts send is ingested as it comes, from this process or another. Nothing in it is trusted, and this is where it is checked, child
by child: growth below an unknown node is late or foreign and is counted and dropped, tokens outside the vocabulary, impossible
probabilities and draws from what is no distribution are garbage and are counted and dropped. Verification makes the rest harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssd_core.tree import SpeculationTree
from ssd_core.types import Draw, Growth


@dataclass(slots=True)
class StoreCounters:
    ingested: int = 0
    late: int = 0
    """Children of nodes that the session has left behind or never had."""
    garbage: int = 0
    """Children, and what children were drawn from, that cannot be."""
    duplicate: int = 0


class StoredSession:
    """A session's tree and what its draft has acknowledged."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tree = SpeculationTree(tokens)
        self.acknowledged_length = len(tokens)
        self.exhausted_length = -1
        """Committed length at which the draft said that it has nothing more to grow."""

    @property
    def is_exhausted(self) -> bool:
        return self.exhausted_length == self.tree.length


class SpeculationStore:
    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._sessions: dict[str, StoredSession] = {}
        self.counters = StoreCounters()

    def __len__(self) -> int:
        return len(self._sessions)

    def __getitem__(self, session_id: str) -> StoredSession:
        return self._sessions[session_id]

    def open(self, session_id: str, tokens: Sequence[int]) -> StoredSession:
        session = self._sessions[session_id] = StoredSession(tokens)
        return session

    def close(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)

    def ingest(self, growth: Growth) -> None:
        """Append a growth step's children to the session's tree."""
        session = self._sessions.get(growth.session_id)
        if session is None:
            self.counters.late += len(growth.tokens)
            return
        if growth.committed_length <= session.tree.length:
            session.acknowledged_length = max(session.acknowledged_length, growth.committed_length)
        if growth.is_exhausted and growth.committed_length == session.tree.length:
            session.exhausted_length = growth.committed_length
        tree = session.tree
        for parent_id, token, probability in zip(growth.parents, growth.tokens, growth.edge_probabilities, strict=False):
            parent = tree.nodes.get(parent_id)
            if not self._is_possible(token, probability):
                self.counters.garbage += 1
            elif parent is None:
                self.counters.late += 1
            elif tree.add(parent, token, probability) is not None:
                self.counters.ingested += 1
            elif (child := parent.children[token]).is_guess:
                tree.confirm(child, probability)
                self.counters.ingested += 1
            else:
                self.counters.duplicate += 1
        for draw in growth.draws:
            self._ingest_draw(tree, draw)

    def _is_possible(self, token: int, probability: float) -> bool:
        return 0 <= token < self._vocab_size and 0.0 <= probability <= 1.0

    def _ingest_draw(self, tree: SpeculationTree, draw: Draw) -> None:
        """Remember what a child was drawn from, if that is a distribution and it could have been."""
        parent = tree.nodes.get(draw.parent)
        if parent is None or parent.draw is not None:
            return
        q = dict(zip(draw.tokens, draw.probabilities, strict=False))
        is_complete = len(q) == len(draw.tokens) == len(draw.probabilities)
        is_distribution = is_complete and all(map(self._is_possible, q, q.values())) and abs(sum(q.values()) - 1.0) < 1e-6
        if is_distribution and q.get(draw.token, 0.0) > 0.0 and draw.token in parent.children:
            parent.draw = draw
        else:
            self.counters.garbage += 1

    def advance(self, session_id: str, tokens: Sequence[int]) -> bool:
        """Move the session to the outcome `tokens`: accepted ones, then the bonus. Growth that hangs elsewhere is late from now on. True if
        the draft had proposed other tokens in the bonus token's place, and not that one."""
        path = self._sessions[session_id].tree.advance(tokens)
        proposed = [child.token for child in path[-2].children.values() if not child.is_guess] if tokens else []
        return bool(proposed) and tokens[-1] not in proposed

    def look_up(self, session_id: str) -> bool:
        """True, a hit: the draft has grown what follows the session's newest token."""
        return any(not child.is_guess for child in self._sessions[session_id].tree.root.children.values())

    def check_integrity(self) -> None:
        for session in self._sessions.values():
            session.tree.check_integrity(lambda node: 0 <= node.token < self._vocab_size)
