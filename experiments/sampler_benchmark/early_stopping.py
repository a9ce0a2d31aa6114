"""What early stopping saves and what it costs, on landscapes with known truth and made-up learning curves.

    python experiments/sampler_benchmark/early_stopping.py --repeats 30

A curve of ``EPOCHS`` epochs ends at the noisy final value of its training. Before, it lies below by a power of the time
that is left, with a factor of its own and with noise that shrinks to nothing: how well the value at half time tells the
end is stated as a correlation. Searches with and without stopping see the same noise. Writes early_stopping.csv: per
landscape and search, the epochs that were spent, the score after the same number of trials, and how many stopped
placements are on the true front.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from landscapes import Landscape, benchmark, best_score, score, true_front
from optuna.trial import TrialState

from se_nas.samplers.features import Features
from se_nas.samplers.front import rising_front
from se_nas.samplers.known_cost import KnownCostSampler
from se_nas.samplers.learning_curves import Standing
from se_nas.samplers.observations import observe
from se_nas.samplers.pool import Pool, SpaceCosts
from se_nas.samplers.posterior import fit

HERE = Path(__file__).parent
EPOCHS, TRIALS, ACCURACY = 20, 50, 70.0
#: Points that a curve lacks at its start, how much this differs between trainings, noise of an early epoch in points.
DEPTH, DIFFERS, EARLY_NOISE = 20.0, 0.05, 1.0
LANDSCAPES = ("paper-4-noise0.3", "interactions-4", "wrong-way-4", "hurts-4", "no-effect-4", "paper-8")


def curves(finals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Learning curves that end at ``n`` final values: ``n x EPOCHS``."""
    left = 1 - np.arange(1, EPOCHS + 1) / EPOCHS
    depth = DEPTH * (1 + DIFFERS * rng.standard_normal((len(finals), 1)))
    return finals[:, None] - depth * left**1.5 + EARLY_NOISE * left * rng.standard_normal((len(finals), EPOCHS))


def search(landscape: Landscape, seed: int, *, stopping: bool) -> dict[str, float]:
    sampler = KnownCostSampler(landscape.space, landscape.cost, levels=landscape.reductions, seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    noise = np.random.default_rng([seed, 2026]).normal(0.0, landscape.noise, TRIALS)
    space, features = landscape.level_space, Features(landscape.level_space.meanings)
    done: list[tuple[np.ndarray, np.ndarray]] = []
    standing: Standing | None = None
    spent, stopped = 0, []
    for i in range(TRIALS):
        trial = study.ask(landscape.space)
        code = np.array(space.encode(trial.params))
        final = ACCURACY + landscape.gain(code[None])[0] + noise[i]
        curve = curves(np.array([final]), np.random.default_rng([seed, i]))[0]
        epochs = EPOCHS
        if stopping and standing is not None:
            others = np.array([not np.array_equal(code, c) for c, _ in done])
            for epoch in range(1, EPOCHS):
                judgement = standing.judge(
                    curve[:epoch], cost=landscape.costs(code[None]), others=others, seen=epoch / EPOCHS
                )
                if judgement.stop:
                    epochs = epoch
                    break
        spent += epochs
        trial.set_user_attr("curve", curve[:epochs].tolist())
        if epochs < EPOCHS:
            stopped.append(code)
            trial.set_constraint("stopped", 1.0)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [curve[-1], landscape.cost(trial.params)])
            done.append((code, curve))
        if stopping and len(done) >= landscape.decisions + 3:
            standing = stand(landscape, study, features, done)
    seen = observe(study, space)
    posterior = fit(features, seen.codes, seen.value, extra_variance=seen.extra_variance)
    pool = Pool(SpaceCosts(space, landscape.cost), space, features, rng=np.random.default_rng(0))
    coefficients = posterior.moments()[0]
    candidates = pool.candidates(coefficients, seen.codes)
    mean = candidates.phi @ coefficients
    front = rising_front(candidates.cost, mean)
    area, best = score(landscape, candidates.codes[front], mean[front]), best_score(landscape)
    top = float(landscape.params.max(axis=1).sum()) / 1e3
    return {
        "epochs": spent / TRIALS / EPOCHS,
        "stopped": len(stopped),
        "wrongly": sum(on_true_front(landscape, code) for code in stopped),
        "score": area / best if best > 1e-9 else area / top,
    }


def stand(landscape: Landscape, study: optuna.Study, features: Features, done: list) -> Standing:
    codes = np.array([code for code, _ in done])
    seen = observe(study, landscape.level_space)
    posterior = fit(features, seen.codes, seen.value, extra_variance=seen.extra_variance)
    return Standing(
        curves=[curve for _, curve in done],
        finals=np.array([curve[-1] for _, curve in done]),
        cost=landscape.costs(codes)[:, None],
        mean=posterior.predict(codes)[0],
    )


def on_true_front(landscape: Landscape, code: np.ndarray) -> bool:
    cost, gain = true_front(landscape)
    here = landscape.costs(code[None])[0]
    return bool(landscape.gain(code[None])[0] >= gain[cost <= here + 1e-9].max() - 1e-9) and here > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--offset", type=int, default=0, help="first seed")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ends = np.random.default_rng(0).normal(ACCURACY, 0.5, 2000)
    half = curves(ends, np.random.default_rng(1))[:, EPOCHS // 2 - 1]
    print(f"correlation of half time and end, spread of the ends 0.5 points: {np.corrcoef(half, ends)[0, 1]:.2f}")
    rows = []
    for landscape in (ls for ls in benchmark() if ls.name in LANDSCAPES):
        for seed in range(args.offset, args.offset + args.repeats):
            for stopping in (False, True):
                rows.append({"landscape": landscape.name, "stopping": stopping, "seed": seed})
                rows[-1].update(search(landscape, seed, stopping=stopping))
        pd.DataFrame(rows).to_csv(HERE / "early_stopping.csv", index=False, float_format="%.4f")
    table = pd.DataFrame(rows)
    print(table.groupby(["landscape", "stopping"])[["epochs", "stopped", "wrongly", "score"]].mean().round(3))
    wide = table.pivot(index=["landscape", "seed"], columns="stopping", values="score")
    difference = (wide[True] - wide[False]).groupby("landscape").agg(["mean", "sem", "count"])
    print("score with stopping minus without, after the same number of trials")
    print(difference.round(4))


if __name__ == "__main__":
    main()
