"""Do 90 % intervals of a search hold on real trainings? Searches replayed on tables of repeated trainings.

    python experiments/calibration/run.py real --repeats 10          # both tables: real.csv
    python experiments/calibration/run.py permuted --repeats 50      # no effect by construction: permuted.csv
    python experiments/calibration/run.py simulated --repeats 40     # known truth, effects of all sizes: simulated.csv
    python experiments/calibration/run.py summary                    # the tables of the README

A replayed search sees one training of each placement that it asks for, with a seed of its own as by default, or with
one seed for all; the truth is all trainings that it cannot see.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "cifar100"))  # its table, and with it the landscapes and samplers of the benchmark

from landscape import REDUCTIONS, Array, Table, levels_of, read_table, seed_noise, stages_of  # noqa: E402

from landscapes import Landscape, additive, make  # isort: skip # noqa: E402
from landscapes import RESNET20, RESNET50  # isort: skip # noqa: E402
from peers import PEERS  # isort: skip # noqa: E402
from play import Judge, play  # isort: skip # noqa: E402

from se_nas.samplers.front import believed_front  # noqa: E402
from se_nas.samplers.marginals import Marginals  # noqa: E402
from se_nas.samplers.posterior import Posterior  # noqa: E402

CHECKS = (10, 20, 50)
LEVEL = 0.9
MARGIN = 0.3
"""Points: the default of a search."""
SURE = 0.95
FAR = 2.0
"""How many half intervals off a value is that is far off."""
SIZES = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Simulated: standard deviation of the gain of SE everywhere over the noise of one training."""
NOISE = 0.3

Codes = np.ndarray


def digits() -> Table:
    """The trainings of `table.py`, in points; what is called a seed here is a search, whose networks have their own."""
    rows = pd.read_csv(HERE / "digits.csv")
    stages = stages_of(rows["placement"])
    shape = (len(REDUCTIONS),) * len(stages)
    levels = [levels_of(label, stages) for label in rows["placement"]]
    rows["place"] = np.ravel_multi_index(np.array([code for code in levels if code is not None]).T, shape)
    first = rows.drop_duplicates("place").sort_values("place")
    finals = 100 * rows.pivot(index="place", columns="search", values="val_accuracy")
    return Table(
        stages=stages,
        params=first["params"].to_numpy(dtype=float),
        macs=first["macs"].to_numpy(dtype=float),
        curves={int(seed): finals[[seed]].to_numpy() for seed in finals},
        keys=tuple(first["placement"]),
    )


def tables() -> Iterator[tuple[str, Table]]:
    yield "digits", digits()
    yield "cifar100", read_table(HERE.parent / "cifar100" / "results-cpu")


def predictive(posterior: Posterior, phi: Array, noise: float) -> Marginals:
    """What is believed of ``phi @ coefficients`` plus noise of ``noise`` times the variance of one training."""
    believed = posterior.marginals(phi)
    scale = np.sqrt(believed.scale**2 + noise * posterior.noise_variance[:, None])
    return replace(believed, scale=scale)


def inside(believed: Marginals, truth: Array) -> Array:
    """Which of the ``n`` equal-tailed intervals hold the truth."""
    error = replace(believed, centre=believed.centre - truth)
    return np.asarray(np.maximum(error.above(0.0), error.below(0.0)) <= (1 + LEVEL) / 2)


def sure(posterior: Posterior, codes: Codes) -> dict[str, float]:
    """The largest chance of any placement to be truly better or worse than no SE, by more than 0 and by the margin."""
    against = posterior.differences(codes[1:], minus=codes[:1])
    each = {name: against.chances(margin) for name, margin in (("any", 0.0), ("margin", MARGIN))}
    return {name: float(max(c.better.max(), c.worse.max())) for name, c in each.items()}


def searched(
    landscape: Landscape, number: int, train: Callable[[int, Codes], float]
) -> Iterator[tuple[int, Codes, Array]]:
    """One search with the default sampler, no SE and SE everywhere first as in the product, at each check."""
    d = landscape.decisions
    sampler = PEERS["known-cost"](landscape, number)
    codes, values = play(landscape, sampler, max(CHECKS), train, first=((0,) * d, (1,) * d))
    for trials in CHECKS:
        yield trials, codes[:trials], values[:trials]


def drawn(finals: Array, way: str, number: int) -> tuple[Array, Array]:
    """What a search sees of each placement (``n``), and all other trainings (``n x (seeds - 1)``).

    ``own``: each network has a seed of its own, the default of a search. ``one``: all have the same
    (`--vary-seed false`).
    """
    n, seeds = finals.shape
    rng = np.random.default_rng([number, 11])
    taken = rng.integers(seeds, size=n) if way == "own" else np.full(n, number % seeds)
    rest = np.ones(finals.shape, dtype=bool)
    rest[np.arange(n), taken] = False
    return finals[np.arange(n), taken], finals[rest].reshape(n, seeds - 1)


def real(given: argparse.Namespace) -> Iterator[dict[str, object]]:
    ways = (("digits", "own"), ("cifar100", "own"), ("cifar100", "one"))  # no two trainings of the digits share a seed
    for name, way in ways:
        table = dict(tables())[name]
        finals = np.array([table.finals(seed) for seed in table.complete()]).T  # placements x seeds
        for number in range(given.repeats):
            seen, others = drawn(finals, way, number)
            m, mean = others.shape[1], others.mean(axis=1)
            landscape = table.landscape(name, mean, 1.0)

            def train(_: int, code: Codes, seen: Array = seen, table: Table = table) -> float:
                return float(seen[table.index(code[None])[0]])

            for trials, codes, values in searched(landscape, number, train):
                posterior, candidates, members, claims = Judge(landscape)(codes, values)
                front = believed_front(posterior, candidates)
                chosen = candidates.codes[front.members[np.flatnonzero(front.tied_with < 0)[-1]]]
                highest = candidates.codes[members[np.argmax(claims)]]
                phi = posterior.features(table.codes)
                less = phi[1:] - phi[:1]
                row: dict[str, object] = {
                    "table": name, "seeds": way, "search": number, "trials": trials, "others": m,
                    "single": np.mean([inside(predictive(posterior, phi, 1.0), other) for other in others.T]),
                    "mean": inside(predictive(posterior, phi, 1 / m), mean).mean(),
                    "difference": inside(predictive(posterior, less, 2 / m), mean[1:] - mean[0]).mean(),
                }  # fmt: skip
                for what, code in (("recommended", chosen), ("highest", highest), ("everywhere", np.ones_like(chosen))):
                    at = table.index(code[None])
                    believed = predictive(posterior, phi[at], 1 / m)
                    row[what] = inside(believed, mean[at]).mean()
                    low, high = believed.interval(LEVEL)
                    row[f"{what}_off"] = float((phi[at] @ posterior.moments()[0] - mean[at])[0])
                    row[f"{what}_miss"] = float(abs(row[f"{what}_off"]) / ((high - low) / 2)[0])  # type: ignore[arg-type]
                row["noise"] = posterior.noise
                row.update(sure(posterior, table.codes))
                yield row
        print(f"{name}, {way} seed: noise of the table {seed_noise(finals):.2f} points", flush=True)


def permuted(given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Searches on real values of one seed, dealt out to the placements at random: there is no effect."""
    for name, table in tables():
        for seed in table.complete():
            for number in range(given.repeats):
                seen = np.random.default_rng([seed, number, 7]).permutation(table.finals(seed))
                landscape = table.landscape(name, np.zeros(len(seen)), 1.0)

                def train(_: int, code: Codes, seen: Array = seen, table: Table = table) -> float:
                    return float(seen[table.index(code[None])[0]])

                for trials, codes, values in searched(landscape, number, train):
                    posterior, *_ = Judge(landscape)(codes, values)
                    yield {"table": name, "seed": seed, "search": number, "trials": trials,
                           **sure(posterior, table.codes)}  # fmt: skip
            print(f"{name}: seed {seed} permuted", flush=True)


def world(size: float, number: int) -> Landscape:
    """Stages of unlike effect; over worlds SE everywhere gains ``size`` times the noise (root mean square)."""
    rng = np.random.default_rng([number, int(100 * size)])
    stages = list((RESNET20, RESNET50)[number % 2])
    effects = rng.normal(0, size * NOISE / np.sqrt(len(stages)), len(stages))
    table = np.outer(effects, [0.0, *np.sort(1 - 0.5 * rng.random(len(REDUCTIONS) - 1) ** 2)])
    return make(f"size {size}", stages, REDUCTIONS, additive(table), NOISE)


def simulated(given: argparse.Namespace) -> Iterator[dict[str, object]]:
    for size in SIZES:
        for number in range(given.offset, given.offset + given.repeats):
            landscape = world(size, number)
            every = landscape.level_space.all()
            noise = np.random.default_rng([number, 2027]).normal(0, NOISE, max(CHECKS))

            def train(i: int, code: Codes, landscape: Landscape = landscape, noise: Array = noise) -> float:
                return float(70 + landscape.gain(code[None])[0] + noise[i])

            truth = landscape.gain(every)
            for trials, codes, values in searched(landscape, number, train):
                posterior, candidates, members, claims = Judge(landscape)(codes, values)
                phi = posterior.features(every)
                highest = candidates.codes[members[[np.argmax(claims)]]]
                own = posterior.features(highest)
                yield {
                    "size": size, "world": number, "trials": trials,
                    "all": inside(posterior.marginals(phi), 70 + truth).mean(),
                    "difference": inside(posterior.marginals(phi[1:] - phi[:1]), truth[1:]).mean(),
                    "highest": inside(posterior.marginals(own), 70 + landscape.gain(highest)).mean(),
                    **sure(posterior, every),
                }  # fmt: skip
        print(f"effects of {size} times the noise", flush=True)


def spread(rows: pd.DataFrame, by: list[str], cluster: str, columns: list[str]) -> pd.DataFrame:
    """Mean over clusters, with the standard error of clusters: ``0.91 +- 0.02``."""
    each = rows.groupby([*by, cluster])[columns].mean().groupby(level=list(range(len(by))))
    mean, error = each.mean(), each.sem()
    return pd.DataFrame({c: [f"{a:.3f} +- {e:.3f}" for a, e in zip(mean[c], error[c], strict=True)] for c in columns},
                        index=mean.index)  # fmt: skip


def summary(_: argparse.Namespace) -> None:
    held = pd.read_csv(HERE / "real.csv")
    held["far"] = (held["everywhere_miss"] > FAR).astype(float)
    columns = ["single", "mean", "difference", "recommended", "recommended_off", "highest", "highest_off",
               "everywhere", "far"]  # fmt: skip
    print(spread(held, ["table", "seeds", "trials"], "search", columns).to_markdown())
    for name, by, cluster in (("permuted", ["table", "trials"], "search"), ("simulated", ["size", "trials"], "world")):
        rows = pd.read_csv(HERE / f"{name}.csv")
        rows["any_sure"], rows["margin_sure"] = rows["any"] > SURE, rows["margin"] > SURE
        shown = [c for c in ("all", "difference", "highest") if c in rows]
        print(spread(rows.astype({"any_sure": float, "margin_sure": float}), by, cluster,
                     [*shown, "any_sure", "margin_sure"]).to_markdown())  # fmt: skip


COMMANDS = {"real": real, "permuted": permuted, "simulated": simulated}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*COMMANDS, "summary"))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--offset", type=int, default=1000, help="first simulated world")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if given.what == "summary":
        summary(given)
        return
    rows = pd.DataFrame(COMMANDS[given.what](given))
    rows.to_csv(HERE / f"{given.what}.csv", index=False, float_format="%.4f", lineterminator="\n")


if __name__ == "__main__":
    main()
