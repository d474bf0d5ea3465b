"""The accounting of KV cells: who holds which, for trunk and tree region. Knows no tensors; both engines use it.

A cell holds one token of one session. A session reserves its cells when it opens and never gets more. It lists them: in token
order for the trunk, by node number for the tree region. Advancing re-lists cell numbers and copies nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from ssd_core.engine.base import TRUNK_END, Part
from ssd_core.errors import CapacityError


class SessionCells:
    """One session's cells and the shape of its tree region."""

    def __init__(self, session_id: str, reserved: list[int]) -> None:
        self.session_id = session_id
        self.trunk: array[int] = array("q")
        """int64: a tensor can be laid over an array without a loop."""
        self.tree: array[int] = array("q")
        self.parents: list[int] = []
        """Of each tree node; always a smaller number, or TRUNK_END."""
        self.depths: list[int] = []
        """Of each tree node: 0 follows the trunk's end. The node's position is trunk length + depth."""
        self.lineages: list[int] = []
        """Of each tree node: bit i is set if node i is an ancestor of it, or itself."""
        self.free = reserved

    def append(self, parents: Sequence[int]) -> None:
        """Add nodes with these parents to the tree region; the caller has checked that they fit."""
        assert len(parents) <= len(self.free), (len(parents), len(self.free))
        for parent in parents:
            assert TRUNK_END <= parent < len(self.parents), f"parent {parent} of node {len(self.parents)} does not come before it"
            self._add(parent)
            self.tree.append(self.free.pop())

    def _add(self, parent: int) -> None:
        own = 1 << len(self.parents)
        self.parents.append(parent)
        self.depths.append(0 if parent == TRUNK_END else self.depths[parent] + 1)
        self.lineages.append(own if parent == TRUNK_END else self.lineages[parent] | own)

    def advance(self, path: Sequence[int], survivors: Sequence[int]) -> None:
        """See Engine.advance."""
        end = TRUNK_END
        for node in path:
            assert self.parents[node] == end, f"path {path}: node {node} follows {self.parents[node]}, not {end}"
            end = node
        numbers = {end: TRUNK_END}
        for number, node in enumerate(survivors):
            assert node not in numbers, f"survivors {survivors}: node {node} twice, or on the path"
            assert self.parents[node] in numbers, f"survivors {survivors}: the parent {self.parents[node]} of node {node} is not kept"
            numbers[node] = number
        kept = {*path, *survivors}
        self.trunk.extend([self.tree[node] for node in path])
        self.free.extend([cell for node, cell in enumerate(self.tree) if node not in kept])
        self.tree = array("q", [self.tree[node] for node in survivors])
        parents = [numbers[self.parents[node]] for node in survivors]
        self.parents, self.depths, self.lineages = [], [], []
        for parent in parents:
            self._add(parent)


class CellPool:
    """All cells of an engine, and the sessions that hold them."""

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self._free = list(range(num_cells - 1, -1, -1))
        self._sessions: dict[str, SessionCells] = {}

    def __repr__(self) -> str:
        return f"CellPool({self.num_free_cells} of {self.num_cells} cells free, {len(self._sessions)} sessions)"

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._sessions

    def __getitem__(self, session_id: str) -> SessionCells:
        return self._sessions[session_id]

    @property
    def num_free_cells(self) -> int:
        return len(self._free)

    def open(self, session_id: str, num_cells: int) -> None:
        """Reserve `num_cells`; CapacityError when they are not free."""
        assert session_id not in self._sessions, f"session {session_id} is open already"
        assert num_cells > 0, num_cells
        if num_cells > len(self._free):
            raise CapacityError(f"session {session_id}: needs {num_cells} KV cells, {len(self._free)} of {self.num_cells} are free")
        first = len(self._free) - num_cells
        reserved, self._free = self._free[first:], self._free[:first]
        self._sessions[session_id] = SessionCells(session_id, reserved)

    def append(self, parts: Sequence[Part], max_model_len: int) -> list[SessionCells]:
        """Take cells for the new nodes of all parts: for every one, or (CapacityError) for none. Returns their sessions."""
        sessions = [self._sessions[part.session_id] for part in parts]
        assert len({part.session_id for part in parts}) == len(parts), "two parts of one session in a pass"
        for part, session in zip(parts, sessions, strict=True):
            assert 0 < len(part.tokens) == len(part.parents), (part.session_id, len(part.tokens), len(part.parents))
            if len(part.tokens) > len(session.free):
                raise CapacityError(
                    f"session {part.session_id}: {len(part.tokens)} more nodes exceed its reservation, {len(session.free)} cells are left"
                )
            if len(session.trunk) + len(session.tree) + len(part.tokens) > max_model_len:
                self._check_positions(part, session, max_model_len)
        for part, session in zip(parts, sessions, strict=True):
            session.append(part.parents)
        return sessions

    @staticmethod
    def _check_positions(part: Part, session: SessionCells, max_model_len: int) -> None:
        depths = list(session.depths)
        for parent in part.parents:
            depths.append(0 if parent == TRUNK_END else depths[parent] + 1)
        length = len(session.trunk) + max(depths) + 1
        if length > max_model_len:
            raise CapacityError(f"session {part.session_id}: {length} tokens exceed max_model_len = {max_model_len}")

    def close(self, session_id: str) -> None:
        """Give all cells of the session back; unknown sessions are ignored."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._free.extend(session.free)
            self._free.extend(session.tree)
            self._free.extend(session.trunk)

    def check_integrity(self) -> None:
        """Every cell is listed exactly once, and every tree is a tree."""
        listed = list(self._free)
        for session in self._sessions.values():
            listed += [*session.free, *session.tree, *session.trunk]
            assert len(session.tree) == len(session.parents) == len(session.depths) == len(session.lineages), session.session_id
            for node, parent in enumerate(session.parents):
                assert TRUNK_END <= parent < node, (session.session_id, node, parent)
                assert session.depths[node] == (0 if parent == TRUNK_END else session.depths[parent] + 1), (session.session_id, node)
                above = 0 if parent == TRUNK_END else session.lineages[parent]
                assert session.lineages[node] == above | 1 << node, (session.session_id, node)
        assert sorted(listed) == list(range(self.num_cells)), f"{len(listed)} cells listed, {self.num_cells} exist"
