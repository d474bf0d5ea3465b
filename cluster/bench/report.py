"""The result of a measurement: what stands in the JSON file, with all that is needed to judge and to repeat it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.bench.machine import Machine
from cluster.bench.measure import BlockResult
from cluster.bench.peer_check import PeerDifference
from cluster.bench.peer_choice import Choice
from cluster.bench.service import ServiceFacts
from cluster.bench.speculated import warnings
from cluster.bench.summary import Difference, Row, differences, summarise
from cluster.bench.table import histogram, table
from cluster.bench.workload import Workload
from cluster.counters import Buckets

GAP_TARGET_S = 0.001
"""What our own work between two verifications may take on a hit."""


@dataclass(frozen=True, slots=True)
class Report:
    model: str
    machine: Machine
    """The client's; a service on `--url` may run elsewhere."""
    command: str
    workload: Workload
    service: ServiceFacts
    rows: tuple[Row, ...]
    differences: tuple[Difference, ...]
    results: tuple[BlockResult, ...]
    peer_choices: tuple[Choice, ...] = ()
    peer_differences: tuple[PeerDifference, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Near ties between a peer and the presets are not held against either."""
        return not self.differences and all(difference.is_near_tie for difference in self.peer_differences)

    @property
    def gap_on_hit(self) -> Buckets:
        return sum((row.gap_on_hit for row in self.rows), Buckets())

    @property
    def work_on_hit(self) -> Buckets:
        return sum((row.work_on_hit for row in self.rows), Buckets())

    def text(self) -> str:
        """For a person: hardware and command first, then the table, the gap, the verdict on exactness."""
        workload = self.workload
        head = (
            f"{self.model} on {self.machine}\n{self.command}\n"
            f"held-out prompts: {len(workload.prompts)}, {workload.max_tokens} tokens each, concurrency {workload.concurrency}, "
            f"repeats {workload.repeats}, presets alternating"
        )
        parts = [
            head,
            "\n".join(map(str, self.peer_choices)),
            table(self.rows),
            "\n".join(warnings((row.preset, row.temperature, row.speculated) for row in self.rows)),
            self._gap_text(),
            self._exactness_text(),
            self._peer_exactness_text(),
        ]
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> str:
        content: dict[str, Any] = {
            "model": self.model,
            "machine": asdict(self.machine),
            "command": self.command,
            "workload": asdict(self.workload),
            "service": asdict(self.service),
            "identical_tokens": self.is_exact,
            "differences": [asdict(difference) for difference in self.differences],
            "peer_choices": [asdict(choice) | {"best": asdict(choice.best)} for choice in self.peer_choices],
            "peer_differences": [asdict(found) | {"is_near_tie": found.is_near_tie} for found in self.peer_differences],
            "rows": [asdict(row) for row in self.rows],
            "requests": [request for result in self.results for request in _requests(result)],
        }
        return strict_json(content)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json() + "\n", encoding="utf-8")

    def _gap_text(self) -> str:
        if self.workload.concurrency != 1:
            return ""
        titles = {
            "end of a verification to the next launch, on a hit": self.gap_on_hit,
            "our own work in that time (CPU of the loop's thread)": self.work_on_hit,
        }
        return "\n\n".join(
            f"{title}: {share:.1%} within {1000 * GAP_TARGET_S:g} ms\n{histogram(times)}"
            for title, times in titles.items()
            if (share := times.share_within(GAP_TARGET_S)) is not None
        )

    def _exactness_text(self) -> str:
        if not self.differences:
            return "all presets returned identical tokens: yes"
        lines = [
            f"  prompt {d.prompt_index}, T={d.temperature:g}: {d.preset} differs from {d.reference_preset} at token {d.position}"
            for d in self.differences[:20]
        ]
        return "\n".join([f"all presets returned identical tokens: NO, {len(self.differences)} answers differ", *lines])

    def _peer_exactness_text(self) -> str:
        if not self.workload.peers or 0 not in self.workload.temperatures:
            return ""
        num_ties = sum(found.is_near_tie for found in self.peer_differences)
        ties = f", but for {num_ties} answers that part at a near tie" if num_ties else ""
        wrong = [found for found in self.peer_differences if not found.is_near_tie]
        if not wrong:
            return f"the peers' tokens at T=0 are the presets': yes{ties}"
        lines = [
            f"  prompt {d.prompt_index}: {d.peer} differs at token {d.position}, logits {d.gap_roundings:.0f} roundings apart"
            for d in wrong[:20]
        ]
        return "\n".join([f"the peers' tokens at T=0 are the presets': NO, {len(wrong)} answers differ{ties}", *lines])


def make_report(
    model: str,
    machine: Machine,
    command: str,
    workload: Workload,
    service: ServiceFacts,
    results: Sequence[BlockResult],
    peer_choices: Sequence[Choice] = (),
    peer_differences: Sequence[PeerDifference] = (),
) -> Report:
    rows, found = tuple(summarise(results)), tuple(differences(results))
    return Report(model, machine, command, workload, service, rows, found, tuple(results), tuple(peer_choices), tuple(peer_differences))


def strict_json(content: Any) -> str:
    """What is not finite, as the open end of a histogram, is null."""
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def _requests(result: BlockResult) -> list[dict[str, Any]]:
    block = result.block
    return [
        {
            "preset": block.preset,
            "temperature": block.temperature,
            "repeat": block.repeat,
            "prompt_index": case.prompt_index,
            "wall_s": completion.wall_s,
            "first_token_s": completion.first_token_s,
            "num_tokens": len(completion.token_ids),
            "block_wall_s": result.wall_s,
            **asdict(completion.account),
        }
        for case, completion in zip(block.cases, result.completions, strict=True)
    ]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
