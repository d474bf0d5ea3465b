"""The experiments, in the order of the page. Another one is a file in `questions/`, a line here, and a section on the page."""

from __future__ import annotations

from cluster.experiments.experiment import Experiment
from cluster.experiments.questions import allocation, backups, draft_time, fan_out, growth, lookahead, rules, saguaro_c

EXPERIMENTS: tuple[Experiment, ...] = (
    fan_out.EXPERIMENT,
    allocation.EXPERIMENT,
    saguaro_c.EXPERIMENT,
    lookahead.EXPERIMENT,
    backups.EXPERIMENT,
    draft_time.EXPERIMENT,
    rules.EXPERIMENT,
    growth.EXPERIMENT,
)
