"""Proposals and fronts on landscapes with known truth.

    python experiments/sampler_benchmark/run.py score --peers known-cost,random --repeats 100
    python experiments/sampler_benchmark/run.py false-claims --repeats 1000
    python experiments/sampler_benchmark/run.py time
    python experiments/sampler_benchmark/run.py workers --repeats 50
    python experiments/sampler_benchmark/run.py summary

``score`` appends to results.csv (one row per landscape, peer, judge, seed and number of trials) and coverage.csv;
``summary`` writes summary.csv and figure.png from them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from landscapes import Landscape, benchmark, best_score, development, score, share
from peers import PEERS
from play import ACCURACY, Judge, simulate
from scipy.stats import beta

from se_nas.samplers.known_cost import KnownCostSampler
from se_nas.samplers.posterior import Posterior

HERE = Path(__file__).parent
CHECKS = (10, 20, 50)


def coverage(judge: Judge, posterior: Posterior, front: np.ndarray, seed: int) -> dict[str, float]:
    """Share of the 90 % intervals that hold the truth."""
    landscape = judge.landscape
    some = np.random.default_rng(seed).integers(0, landscape.level_space.shape, size=(60, landscape.decisions))
    truth = landscape.gain
    low, high = posterior.interval(some)
    front_low, front_high = posterior.interval(front)
    some_low, some_high = posterior.interval(some, minus=0 * some[:1])

    def inside(low: np.ndarray, value: np.ndarray, high: np.ndarray) -> float:
        return float(np.mean((low <= value + 1e-9) & (value <= high + 1e-9)))

    return {
        "all": inside(low, ACCURACY + truth(some), high),
        "front": inside(front_low, ACCURACY + truth(front), front_high),
        "difference": inside(some_low, truth(some), some_high),
    }


def run_score(
    landscape: Landscape, peer: str, repeats: int, offset: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    judge, best = Judge(landscape), best_score(landscape)
    rows, covered = [], []
    for seed in range(offset, offset + repeats):
        start = time.perf_counter()
        codes, values = simulate(landscape, PEERS[peer](landscape, seed), max(CHECKS), seed)
        seconds = time.perf_counter() - start
        duplicates = len(codes) - len(np.unique(codes, axis=0))
        for n in CHECKS:
            posterior, candidates, members, claims = judge(codes[:n], values[:n])
            front = candidates.codes[members]
            key = {"landscape": landscape.name, "peer": peer, "seed": seed, "trials": n}
            extra = {"duplicates": duplicates, "seconds": round(seconds, 3)}
            for name, area in (
                ("posterior", score(landscape, front, claims)),
                ("observed", score(landscape, codes[:n], values[:n])),
            ):
                rows.append({**key, "judge": name, "score": share(landscape, area, best), **extra})
            if peer in ("known-cost", "random"):
                covered.append({**key, **coverage(judge, posterior, front, seed)})
    return rows, covered


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(path, mode="a", header=not path.exists(), index=False, float_format="%.5f")


def command_score(args: argparse.Namespace) -> None:
    landscapes = development() if args.development else benchmark()
    chosen = [ls for ls in landscapes if args.landscapes is None or ls.name in args.landscapes.split(",")]
    prefix = "development_" if args.development else ""
    for peer in args.peers.split(","):
        for landscape in chosen:
            rows, covered = run_score(landscape, peer, args.repeats, args.offset)
            append(HERE / f"{prefix}results.csv", rows)
            if covered:
                append(HERE / f"{prefix}coverage.csv", covered)
            at = [np.mean([r["score"] for r in rows if r["trials"] == n and r["judge"] == "posterior"]) for n in CHECKS]
            print(
                f"{peer:16s} {landscape.name:16s}",
                *[f"{a:.3f}" for a in at],
                f"{rows[-1]['seconds']:.1f} s",
                flush=True,
            )


def command_false_claims(args: argparse.Namespace) -> None:
    landscape = next(ls for ls in benchmark() if ls.name == "no-effect-4")
    judge = Judge(landscape)
    rows = []
    for seed in range(args.offset, args.offset + args.repeats):
        codes, values = simulate(
            landscape,
            KnownCostSampler(landscape.space, landscape.cost, levels=landscape.reductions, seed=seed),
            50,
            seed,
        )
        posterior, candidates, _, _ = judge(codes, values)
        highest = posterior.probability_above(candidates.codes, minus=0 * candidates.codes[:1]).max()
        rows.append({"seed": seed, "highest": highest, "noise": posterior.noise})
    append(HERE / "false_claims.csv", rows)
    claims = pd.read_csv(HERE / "false_claims.csv")
    count, n = int((claims["highest"] > 0.95).sum()), len(claims)
    upper = beta.ppf(0.95, count + 1, n - count)
    print(f"{count} of {n} searches claim a gain with more than 95 %; 95 % upper confidence bound {upper:.2%}")


def timing(landscape: Landscape, trials: int, repeats: bool) -> float:
    """Median seconds of five proposals after ``trials`` random trials."""
    sampler = KnownCostSampler(landscape.space, landscape.cost, levels=landscape.reductions, repeats=repeats, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, landscape.level_space.shape, size=(trials, landscape.decisions))
    values = landscape.gain(codes) + rng.normal(0, landscape.noise, trials)
    for row, value in zip(codes, values, strict=True):
        params = landscape.level_space.decode(row)
        study.add_trial(
            optuna.create_trial(params=params, distributions=landscape.space, values=[value, landscape.cost(params)])
        )
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        trial = study.ask(landscape.space)
        seconds.append(time.perf_counter() - start)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return float(np.median(seconds[1:]))


def command_time(_: argparse.Namespace) -> None:
    rows = []
    for name in ("paper-4-noise0.3", "paper-16"):
        landscape = next(ls for ls in benchmark() if ls.name == name)
        for trials in (50, 200, 1000):
            seconds = timing(landscape, trials, repeats=True)
            rows.append({"placements": landscape.level_space.size, "trials": trials, "seconds": seconds})
            print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(HERE / "time.csv", index=False, float_format="%.4f")


def command_workers(args: argparse.Namespace) -> None:
    rows = []
    for landscape in (ls for ls in benchmark() if ls.name in ("paper-4-noise0.3", "interactions-4")):
        judge, best = Judge(landscape), best_score(landscape)
        for workers in (1, 4):
            for seed in range(args.repeats):
                sampler = KnownCostSampler(landscape.space, landscape.cost, levels=landscape.reductions, seed=seed)
                codes, values = simulate(landscape, sampler, 50, seed, workers)
                for n in CHECKS:
                    _, candidates, members, claims = judge(codes[:n], values[:n])
                    area = score(landscape, candidates.codes[members], claims)
                    row = {"landscape": landscape.name, "workers": workers, "seed": seed, "trials": n}
                    rows.append({**row, "score": area / best, "duplicates": 50 - len(np.unique(codes, axis=0))})
    table = pd.DataFrame(rows)
    table.to_csv(HERE / "workers.csv", index=False, float_format="%.5f")
    print(table.groupby(["landscape", "trials", "workers"])[["score", "duplicates"]].agg(["mean", "sem"]).round(4))


def command_summary(_: argparse.Namespace) -> None:
    from figure import draw, summarise  # matplotlib is needed here alone

    summarise(HERE)
    draw(HERE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("score", "false-claims", "time", "workers", "summary"))
    parser.add_argument("--peers", default="known-cost")
    parser.add_argument("--landscapes", help="names, comma-separated; all by default")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--offset", type=int, default=0, help="first seed")
    parser.add_argument("--development", action="store_true", help="the development landscapes instead")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "score": command_score,
        "false-claims": command_false_claims,
        "time": command_time,
        "workers": command_workers,
        "summary": command_summary,
    }
    commands[args.command](args)


if __name__ == "__main__":
    main()
