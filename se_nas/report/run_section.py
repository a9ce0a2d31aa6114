"""What was run: config, data, versions, device, commit, seeds and times, and the command that reproduces it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

import yaml

from se_nas.core.config import LIGHTNING, as_command
from se_nas.core.serialization import to_plain
from se_nas.core.words import duration
from se_nas.report.page import Block, Head, Section, Table
from se_nas.report.reading import RunReading


def run_section(reading: RunReading) -> Section:
    """The section of the page."""
    found, facts = reading.found, reading.facts
    config, data, trials = facts.config, facts.data, found.trials
    space = found.space
    sizes = (
        ""
        if space is None
        else (f"{len(space.units)} units, {len(space.decisions)} decisions, {space.size:,} placements")
    )

    def counted(values: Sequence[str]) -> str:
        counts = Counter(v for v in values if v)
        return "; ".join(f"{v} ({n:,})" if len(counts) > 1 else v for v, n in counts.most_common(6)) or "not known"

    shape = " x ".join(str(n) for n in data.input_shape)
    own = data.kind == "own"
    rows = {
        "backbone": config.backbone.target,
        "data": f"{'the own data of ' if own else ''}{data.target.target}, {shape}",
        "images": "not known" if own else f"{data.train:,} training, {data.val:,} validation, {data.test:,} test",
        **({"data as read": "; ".join(note.removeprefix("data: ") for note in data.notes)} if data.notes else {}),
        "classes": f"{len(data.classes)}: {', '.join(data.classes[:20])}{' ...' if len(data.classes) > 20 else ''}",
        "checksums": f"data {data.checksum}, split {data.split}",
        **({} if config.trainer.target == LIGHTNING else {"trainer": config.trainer.target}),
        "space": sizes,
        "metric": f"{found.objective.metric} ({found.objective.direction})",
        "cost": ", ".join(found.axes),
        "sampler": config.sampler.target,
        "executor": config.executor.target,
        "seed": str(config.seed),
        "first trial": facts.times[0],
        "last trial": facts.times[1],
        "time in trainings": duration(sum(t.seconds for t in trials)),
        "device": counted([t.device for t in trials]),
        "versions": counted([", ".join(f"{k} {v}" for k, v in t.versions.items()) for t in trials]),
        "commit": counted([t.commit for t in trials]),
    }
    table = Table(caption="Run details", heads=[Head(label="what"), Head(label="value")],
                  rows=[[name, value] for name, value in rows.items()])  # fmt: skip
    command = shlex.join(as_command(config, out=f"runs/{facts.folder.name}-again"))
    return Section(
        id="run",
        title="What was run",
        short="Run",
        tables=[table],
        blocks=[
            Block(title="Reproduce", text=command),
            Block(title="The full configuration", text=yaml.safe_dump(to_plain(config), sort_keys=False), closed=True),
        ],
    )
