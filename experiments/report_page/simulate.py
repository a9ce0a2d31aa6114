"""Write a run folder of a simulated blockwise search: real spaces, costs and records, made-up accuracies.

The accuracy of a placement is that of no SE plus an effect of each unit that grows with its width, and noise; every
fiftieth training fails. Used to time the report and to look at it with many trials::

    python experiments/report_page/simulate.py RUN --trials 10000
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna

from se_nas.backbones.build import build_backbone
from se_nas.core.config import SearchConfig
from se_nas.core.placement import Placement
from se_nas.core.serialization import to_plain
from se_nas.core.trial import Epoch, Metric, Objective, Recipe, RunIdentity, Target, Trial
from se_nas.data.base import DataInfo
from se_nas.engine.run_folder import STUDY, RunFolder
from se_nas.engine.study import Study
from se_nas.insertion.discover import units_of
from se_nas.space.exact_cost import CostModel
from se_nas.space.levels import distributions
from se_nas.space.space import Space
from se_nas.space.spec import read_space
from se_nas.training.provenance import versions

SHAPE = (3, 32, 32)
EPOCHS = 10


def simulate(folder: Path, trials: int, *, seed: int = 0, noise: float = 0.003, effect: float = 0.004) -> None:
    """A finished study of so many trials in a run folder."""
    config = SearchConfig(space="blockwise", budget=trials, out=str(folder), train=Recipe(epochs=EPOCHS))
    backbone = build_backbone(config.backbone, num_classes=10, input_shape=SHAPE, seed=seed)
    spec = read_space(config.space)
    space = Space(spec, units_of(backbone, SHAPE, spec.units))
    costs = CostModel(backbone, space.units, SHAPE)
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    run.write_config(config)
    objective = Objective(metric="val_accuracy", direction="maximize", cost="gflops")
    facts = {
        "backbone": to_plain(config.backbone), "task": to_plain(config.task), "space": space.to_plain(), "seed": seed,
        "data": {"checksum": "simulated", "split": "simulated", "classes": [str(i) for i in range(10)]},
    }  # fmt: skip
    study = Study(run.storage, STUDY, objective, facts)
    data = DataInfo(
        target=Target(target="simulated"), classes=tuple(facts["data"]["classes"]), input_shape=SHAPE,
        fingerprint="simulated", checksum="simulated", split="simulated", train=45_000, val=5_000, test=10_000,
    )  # fmt: skip
    study.optuna.set_user_attr("config", to_plain(config))
    study.optuna.set_user_attr("data", to_plain(data))
    generator, draw = np.random.default_rng(seed), random.Random(seed)  # no secret depends on it
    gain = {unit.name: effect * generator.normal(0.5, 1.0) for unit in space.units}
    ranges = distributions(space.parameters)
    rows = []
    for number in range(trials):
        levels = space.find(space.baseline) if number == 0 else None
        levels = space.find(space.reference) if number == 1 else levels
        levels = levels or space.random_levels(draw)
        placement = space.placement(levels)
        width = {u: math.log2(c.squeeze_channels or 1) for u, c in placement.choices.items() if c.kind == "se"}
        accuracy = 0.9 + sum(gain[u] * (1 + 0.05 * w) for u, w in width.items()) + generator.normal(0, noise)
        role = {0: "baseline", 1: "reference"}.get(number, "")
        record = _record(placement, number, role, config, costs, float(accuracy), failed=number % 50 == 49)
        rows.append(_frozen(record, levels, ranges, objective))
    study.optuna.add_trials(rows)


def _record(
    placement: Placement,
    number: int,
    role: str,
    config: SearchConfig,
    costs: CostModel,
    accuracy: float,
    *,
    failed: bool,
) -> Trial:
    identity = RunIdentity(
        key=placement.key, seed=config.seed, epochs=EPOCHS, recipe=config.train, task=config.task,
        data="simulated", split="simulated", precision="32",
    )  # fmt: skip
    record = Trial(
        number=number, identity=identity, placement=placement, state="complete", role=role, counts=True,
        costs=costs(placement).values(), seconds=30.0, device="cpu (simulated)", versions=versions(),
    )  # fmt: skip
    if failed:
        return replace(record, state="failed", counts=False, reason="non-finite val_loss in epoch 3")
    values = [accuracy * (1 - math.exp(-0.6 * epoch)) for epoch in range(1, EPOCHS)] + [accuracy]
    curve = tuple(
        Epoch(epoch=i, metrics={"val_accuracy": v, "val_loss": -math.log(v)}) for i, v in enumerate(values, start=1)
    )
    return replace(record, curve=curve, metrics={"val_accuracy": Metric(value=accuracy)})


def _frozen(
    record: Trial,
    levels: dict[str, int],
    ranges: dict[str, optuna.distributions.BaseDistribution],
    objective: Objective,
) -> optuna.trial.FrozenTrial:
    done = record.state == "complete"
    state = optuna.trial.TrialState.COMPLETE if done else optuna.trial.TrialState.FAIL
    values = [record.metrics[objective.metric].value, record.costs[objective.cost].value] if done else None
    return optuna.trial.create_trial(
        state=state, values=values, params=levels, distributions=ranges, user_attrs={"record": to_plain(record)}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trials", type=int, default=50)
    given = parser.parse_args()
    start = time.perf_counter()
    simulate(given.run, given.trials)
    print(f"{given.run}: {given.trials} trials in {time.perf_counter() - start:.1f} s")
