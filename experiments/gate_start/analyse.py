"""Paired differences of the trainings, pooled over networks, and the decision as the README states it.

    python experiments/gate_start/analyse.py

Reads ``trainings.csv``, finished or not; writes ``differences.csv`` (by network and length) and ``pooled.csv``; prints
both and the decision. All differences are in points of validation accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import chdtrc, stdtrit

HERE = Path(__file__).parent
METRIC = "val_accuracy"
STARTS = ("plain", "identity")
CONTRASTS = {
    "identity - plain": {"identity": 1.0, "plain": -1.0},
    "SE plain - none": {"plain": 1.0, "none": -1.0},
    "SE identity - none": {"identity": 1.0, "none": -1.0},
}
QUESTION = "identity - plain"
SHORT, LONG = 8, 24
WORST_MEAN, WORST_END = -0.1, -0.3
"""At 24 epochs, in points: of the pooled mean and of the lower end of its interval."""

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean of paired differences with its 90 % interval; `sd` is that of one seed's difference."""

    n: int
    mean: float
    error: float
    low: float
    high: float
    sd: float = float("nan")

    @classmethod
    def of(cls, mean: float, error: float, degrees: float, *, n: int, sd: float = float("nan")) -> Estimate:
        reach = error * float(stdtrit(degrees, 0.95))
        return cls(n=n, mean=mean, error=error, low=mean - reach, high=mean + reach, sd=sd)


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Of several networks: these very ones, and networks like these; how much they differ beyond the noise of seeds."""

    these: Estimate
    like_these: Estimate
    q: float
    """Cochran's Q, with its probability `p` if all networks have the same difference."""
    p: float
    i2: float
    """Share of the differences between networks that is not noise, in percent (Higgins and Thompson 2002)."""


def estimate(values: Array) -> Estimate:
    """From one value for each seed, two or more: mean and t interval."""
    n, sd = len(values), float(values.std(ddof=1))
    return Estimate.of(float(values.mean()), sd / np.sqrt(n), n - 1, n=n, sd=sd)


def pooled(groups: Sequence[Array]) -> Pooled:
    """From the values of two networks or more, two seeds or more each.

    `these`: mean of the networks' means, error from the seeds alone, degrees of freedom by Welch and Satterthwaite.
    `like_these`: random effects, variance between networks by DerSimonian and Laird (1986), interval of Hartung and
    Knapp (2001), which is not let shrink below the error that the weights state (Röver et al. 2015).
    """
    k, n = len(groups), sum(len(values) for values in groups)
    means = np.array([values.mean() for values in groups])
    squares = np.array([values.var(ddof=1) / len(values) for values in groups])
    degrees = squares.sum() ** 2 / sum(s**2 / (len(v) - 1) for s, v in zip(squares, groups, strict=True))
    these = Estimate.of(float(means.mean()), float(np.sqrt(squares.sum())) / k, float(degrees), n=n)
    weights = 1 / squares
    q = float((weights * (means - np.average(means, weights=weights)) ** 2).sum())
    between = max(0.0, (q - k + 1) / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (squares + between)
    mean = np.average(means, weights=weights)
    scale = max(1.0, float((weights * (means - mean) ** 2).sum()) / (k - 1))
    like = Estimate.of(float(mean), float(np.sqrt(scale / weights.sum())), k - 1, n=n)
    share = 100 * max(0.0, 1 - (k - 1) / q) if q > 0 else 0.0
    return Pooled(these=these, like_these=like, q=q, p=float(chdtrc(k - 1, q)), i2=share)


def read_values(file: Path) -> pd.DataFrame:
    """Accuracy in points of each complete seed: rows (network, epochs, seed), columns (placement, start)."""
    rows = pd.read_csv(file, dtype={"seed": int}, keep_default_na=False)
    rows["points"] = 100 * rows[METRIC].astype(float)
    rows["start"] = rows["start"].replace("", "none")
    return rows.pivot(index=["network", "epochs", "seed"], columns=["placement", "start"], values="points").dropna()


def contrast(values: pd.DataFrame, signs: Mapping[str, float]) -> pd.DataFrame:
    """A difference by reduction (columns) of each row of `read_values`; `mean` is that over the reductions.

    `signs`: start of the gates, or ``none`` for the network without SE, -> factor.
    """
    placements = [name for name in dict.fromkeys(values.columns.get_level_values("placement")) if name != "none"]
    found = pd.DataFrame(
        {
            name: sum(
                sign * values[("none", "none") if start == "none" else (name, start)] for start, sign in signs.items()
            )
            for name in placements
        }
    )
    return found.assign(mean=found.mean(axis=1))


def by_network(values: pd.DataFrame) -> pd.DataFrame:
    """A row for each contrast, length, reduction and network."""
    return pd.DataFrame(
        [
            {"contrast": name, "epochs": epochs, "reduction": reduction, "network": network}
            | asdict(estimate(group.to_numpy()))
            for name, signs in CONTRASTS.items()
            for reduction, column in contrast(values, signs).items()
            for (epochs, network), group in column.groupby(level=["epochs", "network"])
            if len(group) > 1
        ]
    )


def over_networks(values: pd.DataFrame) -> pd.DataFrame:
    """A row for each contrast, length and reduction: the networks pooled."""
    rows = []
    for name, signs in CONTRASTS.items():
        for reduction, column in contrast(values, signs).items():
            for epochs, part in column.groupby(level="epochs"):
                found = pooled([group.to_numpy() for _, group in part.groupby(level="network") if len(group) > 1])
                rows.append(
                    {"contrast": name, "epochs": epochs, "reduction": reduction}
                    | {field: getattr(found.these, field) for field in ("n", "mean", "error", "low", "high")}
                    | {f"like_{field}": getattr(found.like_these, field) for field in ("mean", "low", "high")}
                    | {"q": found.q, "p": found.p, "i2": found.i2}
                )
    return pd.DataFrame(rows)


def decision(networks: pd.DataFrame, together: pd.DataFrame) -> dict[str, bool]:
    """Each condition of the README, and whether it holds; the identity is clearly better if all do."""
    asked = (networks["contrast"] == QUESTION) & (networks["reduction"] == "mean")
    rows = together[(together["contrast"] == QUESTION) & (together["reduction"] == "mean")].set_index("epochs")
    short, long = rows.loc[SHORT], rows.loc[LONG]
    return {
        f"{SHORT} epochs: pooled interval above 0": bool(short["low"] > 0),
        f"{LONG} epochs: pooled mean at least {WORST_MEAN}, interval not below {WORST_END}": bool(
            long["mean"] >= WORST_MEAN and long["low"] >= WORST_END
        ),
        "no network clearly worse": bool((networks[asked]["high"] >= 0).all()),
    }


def main() -> None:
    values = read_values(HERE / "trainings.csv")
    networks, together = by_network(values), over_networks(values)
    for name, table in {"differences": networks, "pooled": together}.items():
        table.to_csv(HERE / f"{name}.csv", index=False, float_format="%.4f")
        print(f"\n{name}\n{table.round(2).to_string(index=False)}")
    print(f"\nmeans\n{values.groupby(level=['network', 'epochs']).agg(['mean', 'std']).T.round(2).to_string()}\n")
    held = decision(networks, together)
    for condition, holds in held.items():
        print(f"{'holds' if holds else 'fails'}: {condition}")
    print("the identity is clearly better" if all(held.values()) else "the plain start stays")


if __name__ == "__main__":
    main()
