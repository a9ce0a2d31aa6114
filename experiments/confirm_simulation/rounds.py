"""Confirms that add seeds until the answer is settled, against a fixed number of seeds: errors, power, trainings.

    python experiments/confirm_simulation/rounds.py 2000             # two hours of one core; goes on where it stopped
    python experiments/confirm_simulation/rounds.py 50 --effect 0.5  # a quick look

Two reference points and three finalists, of which one gains ``effect`` points and the others nothing. What is decided
between rounds and at the end comes from the functions that `se-nas confirm` calls (`judge_round`, `judge`,
`final_verdict`); trainings are normal numbers:

    score = mean of the network + training + network x image + rest.

One training varies by `TRAINING` over seeds. The finite test set adds `IMAGES` to a difference of two networks, the
validation set, half as large, 1.41 times as much. ``any look`` is a stranger that opens the test set after every
look and takes the first claim it finds: the most that any rule for ending could do wrong.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import beta, norm

from se_nas.analysis.confirmation import Confirmation, Confirmed, Verdict
from se_nas.analysis.judge import estimate, judge
from se_nas.analysis.looks import Looks
from se_nas.analysis.rounds import judge_round
from se_nas.analysis.verdict import final_verdict
from se_nas.core.placement import Placement
from se_nas.training.provenance import commit, versions

HERE = Path(__file__).parent
ROLES = ("baseline", "reference", "finalist", "finalist", "finalist")
HELPFUL = 2
MARGIN, TRAINING, IMAGES, REST = 0.003, 0.003, 0.001, 0.0006
VALIDATION, TEST = 200, 400
LOOKS = Looks(last=20)
FIXED = (5, 10, 20)
EFFECTS = (0.0, 0.3, 0.5, 0.6, 1.0)
"""Points; 0.6 is twice the margin."""


@dataclass(frozen=True, kw_only=True)
class World:
    """Scores ``networks x seeds x images`` on both parts."""

    val: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, effect: float, seed: int) -> World:
        rng = np.random.default_rng([seed, round(100 * effect), 2025])
        n, k = len(ROLES), LOOKS.last
        mean = np.full((n, 1, 1), 0.9)
        mean[HELPFUL] += effect / 100
        training = TRAINING * rng.standard_normal((n, k, 1))

        def part(images: int) -> np.ndarray:
            each = IMAGES / np.sqrt(2) * np.sqrt(TEST)
            by_image = each * rng.standard_normal((n, 1, images))
            return np.asarray(mean + training + by_image + REST * np.sqrt(TEST) * rng.standard_normal((n, k, images)))

        return cls(val=part(VALIDATION), test=part(TEST))

    def networks(self, planned: Sequence[int]) -> list[Confirmed]:
        """After so many seeds for each."""
        return [
            Confirmed(
                key=str(row), label="", placement=Placement(choices={}, label=""), role=role,
                stopped_after=k if k < max(planned) else None,
                validation=estimate(dict(enumerate(self.val[row, :k].mean(axis=1)))),
            )
            for row, (role, k) in enumerate(zip(ROLES, planned, strict=True))
        ]  # fmt: skip

    def verdict(self, planned: Sequence[int], looks: Looks | None) -> Verdict:
        """What the test set says."""
        networks = self.networks(planned)
        judged = judge(networks, _scores(self.test, planned), "maximize", looks)
        return final_verdict(
            Confirmation(
                metric="val_accuracy", direction="maximize", unit="share", cost="params", epochs=1, search_epochs=1,
                seeds=tuple(range(max(planned))), margin=MARGIN, family=judged.family, test_images=TEST, openings=1,
                winner=judged.winner, noise=judged.noise, networks=judged.networks,
                verdict=Verdict(phase="confirm", claim="unknown"),
            )
        )  # fmt: skip


def _scores(table: np.ndarray, planned: Sequence[int]) -> dict[str, dict[int, np.ndarray]]:
    return {str(row): dict(enumerate(table[row, :k])) for row, k in enumerate(planned)}


def in_rounds(world: World) -> list[int]:
    """With how many seeds each network is trained."""
    planned = [LOOKS.seeds[0]] * len(ROLES)
    for seeds, after in zip(LOOKS.seeds, (*LOOKS.seeds[1:], 0), strict=True):
        found = judge_round(
            world.networks(planned), _scores(world.val, planned), "maximize",
            looks=LOOKS, seeds=seeds, margin=MARGIN, images=VALIDATION / TEST,
        )  # fmt: skip
        if found.end:
            break
        for row in (0, *(int(key) for key in found.train)):
            planned[row] = after
    return planned


def rows(effect: float, seed: int) -> Iterator[dict[str, object]]:
    """One confirm by each design."""
    world, given = World.of(effect, seed), {"effect": effect, "seed": seed}

    def row(design: str, verdict: Verdict, trainings: int, seeds: int) -> dict[str, object]:
        right = verdict.claim == "use" and effect > 0 and verdict.network == str(HELPFUL)
        return {**given, "design": design, "claim": verdict.claim, "right": right, "trainings": trainings,
                "seeds": seeds}  # fmt: skip

    for seeds in FIXED:
        yield row(f"{seeds} seeds", world.verdict([seeds] * len(ROLES), None), seeds * len(ROLES), seeds)
    planned = in_rounds(world)
    yield row("rounds", world.verdict(planned, LOOKS), sum(planned), max(planned))
    if effect in (0.0, 0.6):
        claims = [world.verdict([k] * len(ROLES), LOOKS) for k in LOOKS.seeds]
        worst = "use" if effect == 0 else "without"
        yield row("any look", next((v for v in claims if v.claim == worst), claims[-1]), 0, 0)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each effect and design; bounds are one-sided, 95 % (Clopper and Pearson)."""

    def upper(count: int, n: int) -> float:
        return float(beta.ppf(0.95, count + 1, n - count)) if count < n else 1.0

    found = []
    for (effect, design), group in table.groupby(["effect", "design"], sort=False):
        n = len(group)
        use, without = (int((group["claim"] == c).sum()) for c in ("use", "without"))
        wrong = use - int(group["right"].sum()), without if effect * 0.01 >= MARGIN - 1e-12 else 0
        found.append(
            {
                "effect": effect, "design": design, "confirms": n, "power": round(group["right"].mean(), 4),
                "false_use": round(wrong[0] / n, 4), "false_use_at_most": round(upper(wrong[0], n), 4),
                "said_not_worth_it": round(without / n, 4),
                "false_not_worth_it": round(wrong[1] / n, 4),
                "false_not_worth_it_at_most": round(upper(wrong[1], n), 4),
                "trainings": round(group["trainings"].mean(), 1),
                "trainings_se": round(group["trainings"].sem(), 2), "seeds": round(group["seeds"].mean(), 1),
            }
        )  # fmt: skip
    return pd.DataFrame(found).assign(share=lambda table: _share(table))


def _share(table: pd.DataFrame) -> list[float]:
    """Trainings as a share of those with which a fixed number of seeds has the same power.

    That number lies between those that were simulated: power grows along a straight line in probit and log seeds. Not
    known where it lies outside them.
    """
    shares = []
    for _, row in table.iterrows():
        fixed = table[(table["effect"] == row["effect"]) & table["design"].str.endswith("seeds")]
        powers = fixed["power"].clip(0.001, 0.999)
        inside = row["design"] == "rounds" and row["effect"] > 0 and powers.min() <= row["power"] <= powers.max()
        seeds = (
            np.exp(np.interp(norm.ppf(row["power"]), norm.ppf(powers), np.log(fixed["seeds"]))) if inside else np.nan
        )
        shares.append(round(float(row["trainings"] / (seeds * len(ROLES))), 3))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("confirms", type=int)
    parser.add_argument("--effect", type=float, help="points; one of them only, and nothing is kept")
    given = parser.parse_args()
    file = HERE / "rounds.csv.gz"
    kept = pd.read_csv(file) if file.is_file() and given.effect is None else pd.DataFrame({"effect": [], "seed": []})
    for effect in EFFECTS if given.effect is None else (given.effect,):
        start, done = time.monotonic(), set(kept.loc[kept["effect"] == effect, "seed"])
        for seed in range(given.confirms):
            if seed in done:
                continue
            new = pd.DataFrame(rows(effect, seed)).assign(commit=commit(), numpy=versions().get("numpy", ""))
            kept = pd.concat([kept, new]) if len(kept) else new
            if given.effect is None and seed % 100 == 99:
                kept.to_csv(file, index=False)
        print(f"effect {effect}: {time.monotonic() - start:.0f} s", flush=True)
        print(summary(kept[kept["effect"] == effect]).T.to_string(header=False), flush=True)
    if given.effect is None:
        kept.to_csv(file, index=False)
        summary(kept).to_csv(HERE / "rounds_summary.csv", index=False)


if __name__ == "__main__":
    main()
