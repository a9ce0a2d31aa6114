"""Searches replayed on the table of all placements: do they find what training everything finds?

    python experiments/cifar100/replay.py search --version cpu --repeats 100
    python experiments/cifar100/replay.py stopping --version cpu --repeats 10
    python experiments/cifar100/replay.py summary --version cpu

A search sees the trainings of one seed; the truth is the mean of all other seeds, never a posterior. Scores, samplers
and fronts are those of the sampler benchmark. ``search`` appends to replay.csv, `--repeats` searches for each replayed
seed; ``stopping`` runs ``se_nas.search`` itself on the table (replay_table.py) and appends to stopping.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from landscape import HERE, Array, Table, read_table, seed_noise
from matplotlib.figure import Figure

from landscapes import Landscape, best_score, score, true_front  # isort: skip
from peers import PEERS  # isort: skip
from play import Judge, play  # isort: skip

from se_nas.commands.search import search
from se_nas.core.config import SearchConfig
from se_nas.core.trial import Recipe, Target
from se_nas.report.figures import save_figure
from se_nas.samplers.front import believed_front
from se_nas.samplers.pool import Candidates
from se_nas.samplers.posterior import Posterior

CHECKS = (10, 20, 50)
WITHIN = 1.645
"""Standard deviations of the difference of two true values within which they count as equal (one-sided 5 %)."""
SHAPES = {"cpu": ("resnet8", [3, 16, 16]), "gpu": ("resnet20", [3, 32, 32])}
BLANK = f"{Path(__file__).parents[1] / 'controls' / 'blank.py'}:blank"


def splits(table: Table) -> Iterator[tuple[int, Array, int, float]]:
    """Each seed that can be replayed, the truth without it, of how many seeds, and the noise of one training."""
    seeds = table.complete()
    if len(seeds) < 2:
        raise SystemExit(
            f"{len(seeds)} seeds of the whole table are complete: two are needed, one to replay, one as truth"
        )
    noise = seed_noise(np.array([table.finals(seed) for seed in seeds]).T)
    for seed in seeds:
        others = [table.finals(other) for other in seeds if other != seed]
        yield seed, np.mean(others, axis=0), len(others), noise


def near_best(landscape: Landscape, truth: Array, place: int, margin: float) -> bool:
    """Whether a placement is within the margin of the truly best one that costs no more."""
    cost = landscape.costs(landscape.level_space.all())
    return bool(truth[cost <= cost[place] + 1e-9].max() - truth[place] <= margin)


def judged(
    landscape: Landscape, table: Table, truth: Array, margin: float, codes: Array, values: Array
) -> Iterator[dict[str, float | str]]:
    """What a search is worth after some trials, by the posterior's front and by its own observed one."""
    best = best_score(landscape)
    posterior, candidates, members, claims = Judge(landscape)(codes, values)
    recommended = recommended_of(posterior, candidates)
    for name, area, choice in (
        ("posterior", score(landscape, candidates.codes[members], claims), recommended),
        ("observed", score(landscape, codes, values), codes[np.argmax(values)]),
    ):
        place = int(table.index(choice[None])[0])
        yield {
            "judge": name,
            "share": area / best,
            "near_best": near_best(landscape, truth, place, margin),
            "true_gain": truth[place] - truth[0],
        }


def recommended_of(posterior: Posterior, candidates: Candidates) -> Array:
    """The levels of the dearest placement that is told apart from the cheaper ones of the front."""
    front = believed_front(posterior, candidates)
    return np.asarray(candidates.codes[front.members[np.flatnonzero(front.tied_with < 0)[-1]]])


def command_search(given: argparse.Namespace, table: Table, folder: Path) -> None:
    for seed, truth, n, noise in splits(table):
        landscape = table.landscape(f"seed {seed}", truth, noise)
        margin = WITHIN * noise * np.sqrt(2 / n)
        seen = table.finals(seed)

        def train(_: int, code: np.ndarray, seen: Array = seen) -> float:
            return float(seen[table.index(code[None])[0]])

        facts = {"replayed": seed, "truth_seeds": n}
        rows = []
        for row in judged(landscape, table, truth, margin, table.codes, seen):
            rows.append({**facts, "peer": "exhaustive", "search": 0, "trials": len(seen), **row})
        for peer in given.peers.split(","):
            for number in range(given.offset, given.offset + given.repeats):
                codes, values = play(landscape, PEERS[peer](landscape, number), max(CHECKS), train)
                for trials in CHECKS:
                    key = {**facts, "peer": peer, "search": number, "trials": trials}
                    rows += [
                        {**key, **row}
                        for row in judged(landscape, table, truth, margin, codes[:trials], values[:trials])
                    ]
            print(f"seed {seed} replayed {given.repeats} times with {peer}", flush=True)
        append(folder / "replay.csv", rows)


def command_stopping(given: argparse.Namespace, table: Table, folder: Path) -> None:
    """The product's own searches on the table, with early stopping and without."""
    backbone, shape = SHAPES[given.version]
    epochs = next(iter(table.curves.values())).shape[1]
    place = {key: i for i, key in enumerate(table.keys)}
    for seed, truth, _, noise in splits(table):
        landscape = table.landscape(f"seed {seed}", truth, noise)
        front = set(np.flatnonzero(on_front(landscape, table)))
        rows = []
        for number in range(given.offset, given.offset + given.repeats):
            for stopping in (False, True):
                with tempfile.TemporaryDirectory() as run:
                    config = SearchConfig(
                        backbone=Target(target=backbone),
                        data=Target(target=BLANK, args={"shape": shape, "classes": 100}),
                        executor=Target(
                            target=f"{HERE / 'replay_table.py'}:TableExecutor",
                            args={"address": str(folder / "curves.csv"), "seed": seed},
                        ),
                        space="{init: plain}",  # of which the table is
                        train=Recipe(epochs=epochs, precision="32"),
                        budget=max(CHECKS), seed=number, early_stopping=stopping, device="cpu", workers=1, out=run,
                    )  # fmt: skip
                    result = search(config)
                    spent = len(pd.read_csv(Path(run) / "curves.csv"))
                done = result.trials[result.trials["state"].isin(("complete", "stopped"))]
                codes = table.codes[[place[key] for key in done["key"]]]
                stopped = {place[key] for key in done.loc[done["state"] == "stopped", "key"]}
                best = -1 if result.best is None else place[result.best["key"]]
                rows.append(
                    {
                        "replayed": seed,
                        "search": number,
                        "stopping": stopping,
                        "trials": len(codes),
                        "epochs": spent / (len(codes) * epochs),
                        "stopped": len(stopped),
                        "front": len(front & {place[key] for key in done["key"]}),
                        "wrongly": len(stopped & front),
                        "true_gain_of_best": truth[best] - truth[0],
                    }
                )
            print(rows[-1], flush=True)
        append(folder / "stopping.csv", rows)


def on_front(landscape: Landscape, table: Table) -> npt.NDArray[np.bool_]:
    """Whether each placement is on the true front: no cheaper or equally dear one is as good."""
    cost, gain = true_front(landscape)
    own_cost, own_gain = landscape.costs(table.codes), landscape.gain(table.codes)
    return np.array(
        [((abs(cost - c) < 1e-9) & (abs(gain - g) < 1e-9)).any() for c, g in zip(own_cost, own_gain, strict=True)]
    )


def command_summary(_: argparse.Namespace, table: Table, folder: Path) -> None:
    noises = [noise for *_, noise in splits(table)]
    print(f"sd of one training: {noises[0]:.2f} points; seeds: {table.complete()}")
    for file, keys in (("replay.csv", ["judge", "trials", "peer"]), ("stopping.csv", ["stopping"])):
        if not (folder / file).is_file():
            continue
        rows = pd.read_csv(folder / file)
        values = [c for c in rows if c not in (*keys, "replayed", "search", "truth_seeds")]
        rows[values] = rows[values].astype(float)
        grouped = rows.groupby(keys)[values]
        summary = grouped.mean().join(grouped.sem().add_suffix("_se")).assign(n=grouped.size())
        summary.to_csv(folder / f"{Path(file).stem}_summary.csv", float_format="%.4f")
        print(summary.round(3).to_string())
    if (folder / "replay_summary.csv").is_file():
        draw(pd.read_csv(folder / "replay_summary.csv"), folder)


def draw(summary: pd.DataFrame, folder: Path) -> None:
    """Score after so many trials, and how often the recommended placement is near the best, for each sampler."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2),
        ("share", "near_best"),
        ("share of the true front's score", "recommended within noise of the best"),
        strict=True,
    ):
        for peer, rows in summary[summary["judge"] == "posterior"].groupby("peer"):
            if peer == "exhaustive":
                axes.axhline(rows[column].mean(), color="black", lw=1, ls=":", label="all placements")
            else:
                axes.errorbar(rows["trials"], rows[column], rows[f"{column}_se"], marker="o", capsize=2, label=peer)
        axes.set_xlabel("trials")
        axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, folder / "replay", ("png",))


def append(file: Path, rows: list[dict]) -> None:
    pd.DataFrame(rows).to_csv(file, mode="a", header=not file.exists(), index=False, float_format="%.4f")


COMMANDS = {"search": command_search, "stopping": command_stopping, "summary": command_summary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--version", choices=SHAPES, default="cpu")
    parser.add_argument("--folder", type=Path, help="the tables; default results-VERSION beside this script")
    parser.add_argument("--peers", default="known-cost,random,tpe,tpe-multivariate,nsga2-10")
    parser.add_argument("--repeats", type=int, default=100, help="searches for each replayed seed")
    parser.add_argument("--offset", type=int, default=0, help="first seed of the samplers")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder = (given.folder or HERE / f"results-{given.version}").resolve()
    COMMANDS[given.command](given, read_table(folder), folder)


if __name__ == "__main__":
    main()
