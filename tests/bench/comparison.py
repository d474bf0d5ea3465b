"""The table of `end_to_end`: our rows and vLLM's beside each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.bench.measure import decode_tokens_per_s
from cluster.bench.report import Report, strict_json
from cluster.bench.summary import Row
from cluster.bench.table import aligned, histogram, number
from cluster.counters import Buckets
from tests.bench.timeline import Window

VLLM = "vllm-"
HEADER = (
    "contestant", "tokens/s", "to ar", "to sd", "to vllm-ar", "to vllm-sd", "first ms", "then tokens/s", "tok/round", "hits",
    "wait ms/round", "nodes/pass", "pass ms", "of floor", "of free drafting", "growth ms", "nodes", "GPU-s/1k tok", "differ",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    device: str
    bandwidth: float | None
    """Bytes a second of a copy, read and written; None where there is no GPU."""

    def floor_ms(self, flops_per_node: float | None) -> float | None:
        """Of a pass: the time to read all weights. Two bytes, and two operations, for each."""
        return None if self.bandwidth is None or flops_per_node is None else 1e3 * flops_per_node / self.bandwidth


@dataclass(frozen=True, slots=True)
class Scene:
    context: int
    batch: int
    temperature: float
    prompts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"context {self.context}, batch {self.batch}, T={self.temperature:g}"


@dataclass(frozen=True, slots=True)
class Line:
    """A contestant in a scene. None where it does not apply or is not told."""

    scene: str
    contestant: str
    tokens_per_s: float
    """All answers of the scene over the time on the clock."""
    to_ar: float | None = None
    to_sd: float | None = None
    to_vllm_ar: float | None = None
    to_vllm_sd: float | None = None
    first_ms: float | None = None
    decode_tokens_per_s: float | None = None
    """Of one request after its first token."""
    tokens_per_round: float | None = None
    hit_rate: float | None = None
    wait_ms: float | None = None
    nodes_per_pass: float | None = None
    pass_ms: float | None = None
    """The passes that read no prompt: nodes and time, to the choices on the host."""
    of_floor: float | None = None
    of_free_drafting: float | None = None
    """Share of the time that the target spends in passes: what is left of the speed that drafts from nowhere would give."""
    growth_ms: float | None = None
    growth_nodes: float | None = None
    gpu_s_per_1k: float | None = None
    num_different: int | None = None
    """Answers other than the first contestant's."""


@dataclass(frozen=True, slots=True)
class Comparison:
    facts: Facts
    command: str
    step_times: tuple[tuple[int, float], ...]
    """T_verify(n) as measured at the service's start: nodes and seconds."""
    gpu_bytes: int
    """Of all GPUs while the service ran."""
    lines: tuple[Line, ...]
    vllm: Mapping[str, Any]
    """As its processes told it."""
    num_tokens: int
    """Of all answers that were compared, ..."""
    num_different: int
    """... and how many answers parted from the first contestant's."""
    gap_on_hit: Buckets
    timeline: str
    """A second of one session's work."""

    def text(self) -> str:
        parts = [f"{self.facts.device}\n{self.command}"]
        for scene in dict.fromkeys(line.scene for line in self.lines):
            parts.append(f"{scene}\n" + aligned([HEADER, *(_cells(line) for line in self.lines if line.scene == scene)]))
        times = ", ".join(f"{nodes}: {1e3 * seconds:.2f}" for nodes, seconds in self.step_times)
        parts.append(f"pass over so many nodes of one session, ms: {times}")
        parts.append(f"memory of all GPUs: {self.gpu_bytes / 2**30:.1f} GiB")
        parts.append(f"answers that part from the first contestant's: {self.num_different}, in {self.num_tokens} tokens")
        parts.append("end of a verification to the next launch, on a hit, one request at a time\n" + histogram(self.gap_on_hit))
        parts.append(self.timeline)
        parts += [f"vLLM {mode} failed:\n{told['error']}" for mode, told in self.vllm.items() if "error" in told]
        return "\n\n".join(parts)

    def to_json(self) -> str:
        return strict_json(asdict(self))


def comparison(
    facts: Facts, command: str, reports: Sequence[tuple[Scene, Report]], vllm: Mapping[str, Any], gpu_bytes: int, timeline: Window
) -> Comparison:
    """`vllm`: by mode, what its process wrote."""
    lines = [line for scene, report in reports for line in _lines(facts, scene, report, vllm)]
    service = reports[0][1].service
    alone = [report for scene, report in reports if scene.batch == 1]
    return Comparison(
        facts=facts,
        command=command,
        step_times=tuple(zip(service.pass_nodes, service.pass_s, strict=True)),
        gpu_bytes=gpu_bytes,
        lines=tuple(lines),
        vllm=vllm,
        num_tokens=sum(_num_compared(report) for _, report in reports),
        num_different=sum(len(report.differences) for _, report in reports),
        gap_on_hit=sum((report.gap_on_hit for report in alone), Buckets()),
        timeline=timeline.text(),
    )


def _num_compared(report: Report) -> int:
    """Tokens of all answers but those that the others are compared with."""
    return sum(row.num_tokens for row in report.rows) - report.rows[0].num_tokens // report.workload.repeats


def _lines(facts: Facts, scene: Scene, report: Report, vllm: Mapping[str, Any]) -> Iterator[Line]:
    theirs = {mode: run for mode, told in vllm.items() for run in told.get("runs", ()) if run["name"] == scene.name}

    def to(mode: str, speed: float) -> float | None:
        return speed / theirs[mode]["tokens_per_s"] if mode in theirs else None

    for row in report.rows:
        yield _line(facts, scene, report, row, to)
    for mode, run in theirs.items():
        speed = run["tokens_per_s"]
        yield Line(
            scene.name,
            VLLM + mode,
            speed,
            to_vllm_ar=to("ar", speed),
            to_vllm_sd=to("sd", speed),
            first_ms=1e3 * run["first_token_s"],
            decode_tokens_per_s=run["decode_tokens_per_s"],
            tokens_per_round=run["tokens_per_round"],
            gpu_s_per_1k=1e3 / speed,
        )


def _line(facts: Facts, scene: Scene, report: Report, row: Row, to: Callable[[str, float], float | None]) -> Line:
    """`to`: the ratio of a speed to that of vLLM in a mode."""
    assert row.totals is not None and row.cost is not None
    sums, cost = row.totals, row.cost
    passes = sums.passes - sums.prompt_passes
    pass_ms = 1e3 * (sums.pass_s - sums.prompt_pass_s) / passes if passes else None
    floor_ms = facts.floor_ms(report.service.target_flops_per_node)
    held = None if cost.target_held_s is None or cost.draft_held_s is None else cost.target_held_s + cost.draft_held_s
    steps = sums.growth_steps
    speed = row.num_tokens / row.wall_s
    answers = [answer for result in report.results if result.block.preset == row.preset for answer in result.completions]
    return Line(
        scene=scene.name,
        contestant=row.preset,
        tokens_per_s=speed,
        to_ar=row.ratio_to_ar,
        to_sd=row.ratio_to_sd,
        to_vllm_ar=to("ar", speed),
        to_vllm_sd=to("sd", speed),
        first_ms=row.first_token_ms,
        decode_tokens_per_s=decode_tokens_per_s(answers),
        tokens_per_round=row.tokens_per_round,
        hit_rate=row.hit_rate,
        wait_ms=row.draft_wait_ms,
        nodes_per_pass=(sums.pass_nodes - sums.prompt_pass_nodes) / passes if passes else None,
        pass_ms=pass_ms,
        of_floor=pass_ms / floor_ms if pass_ms is not None and floor_ms is not None else None,
        of_free_drafting=sums.pass_s / row.wall_s,
        growth_ms=1e3 * sums.growth_busy_s / steps if steps else None,
        growth_nodes=sums.growth_nodes / steps if steps else None,
        gpu_s_per_1k=None if held is None else 1e3 * held,
        num_different=sum(difference.preset == row.preset for difference in report.differences),
    )


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.contestant,
        f"{line.tokens_per_s:.1f}",
        *(number(ratio, "{:.2f}x") for ratio in (line.to_ar, line.to_sd, line.to_vllm_ar, line.to_vllm_sd)),
        number(line.first_ms, "{:.0f}"),
        number(line.decode_tokens_per_s, "{:.1f}"),
        number(line.tokens_per_round, "{:.2f}"),
        number(line.hit_rate, "{:.0%}"),
        number(line.wait_ms, "{:.2f}"),
        number(line.nodes_per_pass, "{:.1f}"),
        number(line.pass_ms, "{:.2f}"),
        number(line.of_floor, "{:.2f}x"),
        number(line.of_free_drafting, "{:.0%}"),
        number(line.growth_ms, "{:.2f}"),
        number(line.growth_nodes, "{:.1f}"),
        number(line.gpu_s_per_1k, "{:.2f}"),
        number(line.num_different, "{:.0f}"),
    )
