"""Whole confirms of networks whose truth is known, through the functions that `se-nas confirm` calls.

    python experiments/confirm_simulation/run.py 1000            # all scenarios, 25 minutes on one core; goes on
    python experiments/confirm_simulation/run.py 50 --only none  # a quick look at one

Where a scenario has a search, one of 50 random placements (three stages, four choices) gives a noisy validation
value each, and the finalists are chosen by `choose_finalists`, which fits the posterior. Each is "trained" with fresh
seeds: a value on the validation set and right or wrong on every test image; `judge` and `final_verdict` do the rest.
An image is right if

    mean of the network + seed + network x seed + image + network x image + rest > 0,

all normal, so that noise comes from the seeds and from the finite test set alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

from se_nas.analysis.confirmation import Confirmation, Confirmed, Verdict
from se_nas.analysis.findings import Findings
from se_nas.analysis.judge import estimate, judge
from se_nas.analysis.verdict import final_verdict
from se_nas.core.placement import Site, Unit
from se_nas.core.trial import CostValue, Metric, Objective, Recipe, RunIdentity, Target, Trial
from se_nas.engine.finalists import TOP, Finalist, choose_finalists, fresh_seeds
from se_nas.space.space import Space
from se_nas.space.spec import SpaceSpec
from se_nas.training.provenance import commit

HERE = Path(__file__).parent
BASE = 0.90
"""Accuracy without SE."""
SD_IMAGE, SD_REST = 1.2, 0.6
OBJECTIVE = Objective(metric="val_accuracy", direction="maximize", cost="params")
TRAININGS = 50
MARGIN = 0.003
"""The smallest gain that is worth it: "not worth it" is false where one that is compared gains as much."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """Effects in points; standard deviations of the latent normal parts, of which the total is about 1.35."""

    name: str
    search: bool = False
    """Whether a search chooses the finalists; else they are three placements drawn at random, equal to all others."""
    effect: float = 0.0
    """Of the placements that help; what helps is SE in the second stage at r=8 or r=4, all other SE does nothing."""
    harm: float = 0.0
    """What SE in the third stage costs."""
    seeds: int = 5
    images: int = 10_000
    validation: int = 5_000
    sd_seed: float = 0.0
    """Common to all networks with equal seeds."""
    sd_training: float = 0.02
    """Network x seed: with `SD_REST` 0.3 points for one training on 10,000 images."""
    sd_network: float = 0.15
    """Network x image: how differently two networks see the same image."""


SCENARIOS = [
    Scenario(name="none"),
    Scenario(name="none, 3 seeds", seeds=3),
    Scenario(name="none, 10 seeds", seeds=10),
    Scenario(name="none, 360 images", images=360, validation=360),
    Scenario(name="none, equal seeds alike", sd_seed=0.05),
    Scenario(name="none, networks see alike", sd_network=0.0),
    Scenario(name="none, noisy trainings", sd_training=0.06),
    Scenario(name="harm 0.5", harm=0.5),
    Scenario(name="helpful 0.6", effect=0.6),
    Scenario(name="helpful 0.6, 10 seeds", effect=0.6, seeds=10),
    Scenario(name="search, none", search=True),
    Scenario(name="search, effect 1.0", search=True, effect=1.0),
    Scenario(name="search, effect 0.5", search=True, effect=0.5),
    Scenario(name="search, effect 0.5, 10 seeds", search=True, effect=0.5, seeds=10),
]


def space() -> Space:
    """Three stages of one unit each, with 64 channels: none, 16, 8 or 4."""
    units = [
        Unit(name=u, stage=stage, sites=(Site(unit=u, position="standard", module=u, channels=64, size=(8, 8)),))
        for u, stage in (("u1", "stage1"), ("u2", "stage2"), ("u3", "stage3"))
    ]
    return Space(SpaceSpec(reductions=("none", 16.0, 8.0, 4.0), init="plain"), units)


class World:
    """One study: the true means of all placements, and their noise on fixed validation and test sets."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario, self.rng = scenario, np.random.default_rng([seed, *scenario.name.encode()])
        self.space = space()
        self.placements = {p.key: p for p in self.space.placements()}
        self.total = float(np.sqrt(SD_IMAGE**2 + scenario.sd_network**2 + SD_REST**2))
        self.difficulty = {"val": self._normal(scenario.validation), "test": self._normal(scenario.images)}
        self.network: dict[tuple[str, str], np.ndarray] = {}
        self.by_seed: dict[int, float] = {}

    def _normal(self, n: int) -> np.ndarray:
        return self.rng.standard_normal(n, dtype=np.float32)

    def truth(self, key: str) -> float:
        """True accuracy, over seeds and images."""
        choices = self.placements[key].choices
        ratio = choices["u2"].reduction
        gain = self.scenario.effect if ratio in (8.0, 4.0) else 0.0
        return BASE + (gain - (self.scenario.harm if choices["u3"].kind == "se" else 0.0)) / 100

    def train(self, key: str, seed: int, *parts: str) -> list[np.ndarray]:
        """Right or wrong for each image of the parts, after one training."""
        s = self.scenario
        shared = self.by_seed.setdefault(seed, s.sd_seed * float(self.rng.standard_normal()))
        # The seeds move the mean accuracy: without this term it would be another one.
        spread = np.sqrt(self.total**2 + s.sd_seed**2 + s.sd_training**2)
        level = norm.ppf(self.truth(key)) * spread + shared + s.sd_training * float(self.rng.standard_normal())
        found = []
        for part in parts:
            n = len(self.difficulty[part])
            if (key, part) not in self.network:
                self.network[key, part] = s.sd_network * self._normal(n)
            latent = SD_IMAGE * self.difficulty[part] + self.network[key, part] + SD_REST * self._normal(n)
            found.append(latent + np.float32(level) > 0)
        return found


def drawn(world: World) -> list[Finalist]:
    """The reference points and three other placements."""
    fixed = {world.space.baseline.key: "baseline", world.space.reference.key: "reference"}
    others = world.rng.permutation([key for key in world.placements if key not in fixed])[:TOP]
    roles = {**fixed, **{str(key): "finalist" for key in others}}
    return [Finalist(placement=world.placements[key], role=role) for key, role in roles.items()]


def search(world: World) -> list[Trial]:
    """One training each of both reference points and of random placements, all with one seed."""
    keys = [world.space.baseline.key, world.space.reference.key]
    others = [key for key in world.placements if key not in keys]
    keys += list(world.rng.permutation(others)[: TRAININGS - 2])
    roles = {world.space.baseline.key: "baseline", world.space.reference.key: "reference"}
    trials = []
    for number, key in enumerate(keys):
        (right,) = world.train(str(key), 0, "val")
        placement = world.placements[str(key)]
        identity = RunIdentity(
            key=placement.key, seed=0, epochs=1, recipe=Recipe(epochs=1), task=Target(target="classification"),
            data="", split="", precision="32",
        )  # fmt: skip
        params = 1000 + sum(128 * (c.squeeze_channels or 0) for c in placement.choices.values())
        trials.append(
            Trial(
                number=number, identity=identity, placement=placement, state="complete", counts=True,
                role=roles.get(placement.key, ""), metrics={"val_accuracy": Metric(value=float(right.mean()))},
                costs={"params": CostValue(value=params, unit="parameters")},
            )
        )  # fmt: skip
    return trials


def study(scenario: Scenario, seed: int) -> dict[str, object]:
    """A search and a confirm; one row of figures."""
    world = World(scenario, seed)
    trials = search(world) if scenario.search else []
    finalists = (
        choose_finalists(Findings(trials=trials, objective=OBJECTIVE, space=world.space), world.space, TOP)
        if trials
        else drawn(world)
    )
    seeds = fresh_seeds(seed, scenario.seeds)
    networks, scores = [], {}
    for finalist in finalists:
        key = finalist.placement.key
        values, rows = {}, {}
        for s in seeds:
            val, test = world.train(key, s, "val", "test")
            values[s], rows[s] = float(val.mean()), test.astype(np.float64)
        scores[key] = rows
        trial = finalist.trial
        validation = estimate(values)
        observed = trial.metrics["val_accuracy"].value if trial else None
        networks.append(
            Confirmed(
                key=key, label=finalist.placement.label, placement=finalist.placement, role=finalist.role,
                costs=trial.costs if trial else {}, validation=validation,
                promised=finalist.promised, observed=observed,
                optimism=None if finalist.promised is None else finalist.promised - validation.mean,
                observed_optimism=None if observed is None else observed - validation.mean,
            )
        )  # fmt: skip
    judged = judge(networks, scores, "maximize")
    verdict = final_verdict(
        Confirmation(
            metric="val_accuracy", direction="maximize", unit="share", cost="params", epochs=1, search_epochs=1,
            seeds=tuple(seeds), margin=MARGIN, family=judged.family, test_images=scenario.images, openings=1,
            winner=judged.winner,
            noise=judged.noise, networks=judged.networks, verdict=Verdict(phase="confirm", claim="unknown"),
        )
    )  # fmt: skip
    return {"scenario": scenario.name, "study": seed, **figures(world, judged.networks, verdict, trials)}


def figures(world: World, networks: tuple[Confirmed, ...], verdict: Verdict, trials: list[Trial]) -> dict[str, object]:
    """What came out, beside the truth. Shares are points."""
    base = world.truth(world.space.baseline.key)
    against = [(n, n.against["baseline"], world.truth(n.key) - base) for n in networks if "baseline" in n.against]
    other = [(n, n.against["reference"], world.truth(n.key) - world.truth(world.space.reference.key))
             for n in networks if "reference" in n.against]  # fmt: skip
    false = [d.beats and truth <= 1e-12 for _, d, truth in against]
    covered = [_in(d.interval, truth) for _, d, truth in against]
    family = [_in(d.family_interval, truth) for _, d, truth in against]
    finalists = [n for n in networks if n.role == "finalist"]
    searched: dict[str, object] = {}
    if trials:
        best = max(finalists, key=lambda n: n.promised or 0.0)
        luckiest = max(trials, key=lambda t: t.metrics["val_accuracy"].value)
        searched = {
            "optimism": 100 * (best.optimism or 0.0),
            "optimism_single_run": 100 * (best.observed_optimism or 0.0),
            "optimism_luckiest_run": 100 * _luck(world, luckiest),
        }
    return {
        "claim": verdict.claim,
        "right": verdict.claim == "use" and world.truth(verdict.network or "") > base + 1e-12,
        "false_claim": any(false),
        "false_not_worth_it": verdict.claim == "without" and any(truth >= MARGIN for _, _, truth in against),
        "false_over_reference": any(d.beats and truth <= 1e-12 for _, d, truth in other),
        "helpful_finalists": sum(truth > 1e-12 for n, _, truth in against if n.role == "finalist"),
        "covered": float(np.mean(covered)),
        "family_covered": all(family),
        "mean_covered": float(np.mean([_in(n.test.interval, world.truth(n.key)) for n in networks if n.test])),
        "error": 100 * float(np.mean([d.mean - truth for _, d, truth in against])),
        "half_width": 50 * float(np.mean([d.interval[1] - d.interval[0] for _, d, _ in against if d.interval])),
        **searched,
    }


def _luck(world: World, trial: Trial) -> float:
    """By how much the best single value of the search is too good, on the same validation set."""
    again = [world.train(trial.placement.key, 10_000 + k, "val")[0].mean() for k in range(5)]
    return trial.metrics["val_accuracy"].value - float(np.mean(again))


def _in(interval: tuple[float, float] | None, truth: float) -> bool:
    return interval is not None and interval[0] <= truth <= interval[1]


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each scenario; bounds are one-sided, 95 % (Clopper and Pearson)."""

    def upper(count: int, n: int) -> float:
        return float(beta.ppf(0.95, count + 1, n - count)) if count < n else 1.0

    found = []
    for columns in ("optimism", "optimism_single_run", "optimism_luckiest_run"):
        rows = rows if columns in rows else rows.assign(**{columns: np.nan})
    for name, group in rows.groupby("scenario", sort=False):
        n, false, right = len(group), int(group["false_claim"].sum()), int(group["right"].sum())
        found.append(
            {
                "scenario": name, "studies": n,
                "false_claims": round(false / n, 4), "false_claims_at_most": round(upper(false, n), 4),
                "false_not_worth_it": round(group["false_not_worth_it"].mean(), 4),
                **{f"said_{c}": round((group["claim"] == c).mean(), 4) for c in ("use", "without", "undecided")},
                "false_over_reference": round(group["false_over_reference"].mean(), 4),
                "power": round(right / n, 4), "power_at_least": round(1 - upper(n - right, n), 4),
                "helpful_among_finalists": round(group["helpful_finalists"].mean(), 2),
                "coverage_90": round(group["covered"].mean(), 4),
                "family_coverage": round(group["family_covered"].mean(), 4),
                "mean_coverage_90": round(group["mean_covered"].mean(), 4),
                "half_width": round(group["half_width"].mean(), 3),
                "optimism": round(group["optimism"].mean(), 3), "optimism_se": round(group["optimism"].sem(), 3),
                "optimism_single_run": round(group["optimism_single_run"].mean(), 3),
                "optimism_luckiest_run": round(group["optimism_luckiest_run"].mean(), 3),
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("studies", type=int)
    parser.add_argument("--only", help="names of scenarios that contain this")
    given = parser.parse_args()
    file = HERE / "studies.csv"
    table = pd.read_csv(file) if file.is_file() and not given.only else pd.DataFrame({"scenario": [], "study": []})
    for scenario in SCENARIOS:
        if given.only and given.only not in scenario.name:
            continue
        start = time.monotonic()
        done = set(table.loc[table["scenario"] == scenario.name, "study"])
        rows = [study(scenario, seed) for seed in range(given.studies) if seed not in done]
        table = pd.concat([table, pd.DataFrame(rows).assign(commit=commit())]) if rows else table
        print(f"{scenario.name}: {time.monotonic() - start:.0f} s", flush=True)
        print(summary(table[table["scenario"] == scenario.name]).T.to_string(header=False), flush=True)
        if not given.only:
            table.to_csv(file, index=False, float_format="%.5g")
            summary(table).to_csv(HERE / "summary.csv", index=False)


if __name__ == "__main__":
    main()
