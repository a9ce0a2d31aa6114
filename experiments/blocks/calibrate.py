"""Do the intervals of the model estimate hold where blocks are searched over? On the real trainings of run.py.

    python experiments/blocks/calibrate.py --runs runs/blocks --repeats 40      # calibration.csv and a table

Of the 78 trainings of a setting (13 networks, 6 seeds) some are drawn at random, as a search would have them; the model
of a search is fitted to them. The truth of each network is the mean of its trainings that were not drawn, and counts as
covered if it lies in the 90 % interval, to which the noise of that mean is added.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from se_nas.analysis.confirmation import read_confirmed
from se_nas.commands.diagnosis import confirmed_trials
from se_nas.commands.results import existing_run
from se_nas.core.trial import Objective, Trial
from se_nas.samplers.features import Features
from se_nas.samplers.posterior import fit
from se_nas.space.levels import LevelSpace, distributions

HERE = Path(__file__).parent
NUMBERS = (10, 20, 30, 50)
LEVEL = 0.9


def trainings(run: Path) -> tuple[list[Trial], LevelSpace, np.ndarray, Objective]:
    """The confirmed trainings of a run, and the levels of their placements."""
    _, study = existing_run(run)
    trials = confirmed_trials(study, read_confirmed(run))
    levels = LevelSpace.of(distributions(study.space.parameters), study.space.parameters)
    found = [study.space.find(trial.placement) for trial in trials]
    codes = np.array([[one[name] for name in levels.names] for one in found if one is not None])
    assert len(codes) == len(trials)
    return trials, levels, codes, study.objective


def calibrate(run: Path, repeats: int) -> list[dict[str, object]]:
    trials, levels, codes, objective = trainings(run)
    values = np.array([100 * trial.metrics[objective.metric].value for trial in trials])
    keys = np.array([trial.placement.key for trial in trials])
    features, rows = Features(levels.meanings), []
    for number in range(repeats):
        order = np.random.default_rng([number, 5]).permutation(len(trials))
        for n in NUMBERS:
            drawn, rest = order[:n], order[n:]
            posterior = fit(features, codes[drawn], values[drawn])
            for key in np.unique(keys):
                others = rest[keys[rest] == key]
                if len(others) < 2:
                    continue
                truth, seen = values[others].mean(), bool((keys[drawn] == key).any())
                believed = posterior.marginals(posterior.features(codes[others[:1]]))
                noise = posterior.noise_variance[:, None] / len(others)
                low, high = replace(believed, scale=np.sqrt(believed.scale**2 + noise)).interval(LEVEL)
                rows.append({"run": run.name, "repeat": number, "trainings": n, "seen": seen,
                             "half": (high - low)[0] / 2,
                             "error": truth - posterior.predict(codes[others[:1]])[0][0],
                             "covered": bool(low[0] <= truth <= high[0])})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/blocks"))
    parser.add_argument("--repeats", type=int, default=40)
    given = parser.parse_args()
    runs = sorted(folder for folder in given.runs.iterdir() if (folder / "confirm.json").is_file())
    table = pd.DataFrame([row for run in runs for row in calibrate(run, given.repeats)])
    table["square"] = table["error"] ** 2
    groups = table.groupby(["run", "trainings", "seen"]).agg(
        covered=("covered", "mean"), cases=("covered", "size"), half=("half", "mean"), square=("square", "mean")
    )
    groups["rmse"] = np.sqrt(groups.pop("square"))
    groups.reset_index().to_csv(HERE / "calibration.csv", index=False, float_format="%.4g")
    print(groups.round(3).to_string())


if __name__ == "__main__":
    main()
