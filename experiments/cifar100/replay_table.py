"""An executor of one's own: it reads trainings from a table instead of doing them, and replays a search in seconds.

    se-nas search --executor experiments/cifar100/replay_table.py:TableExecutor --executor.args.address FILE ...

An executor is a class with `slots`, `submit` and `shutdown` (`se_nas.core.plugins.Executor`). It is made with the
devices of the search and its own arguments, and given by import path.

The table has one row for each epoch of each training, as ``curves.csv`` of a run folder, or several of them one below
the other: columns ``key`` (of the network), ``seed``, ``epochs`` (of the whole training), ``epoch`` (counted from 1)
and the logged values; ``replicate`` and ``seconds`` may be there, all else is ignored. A table of a whole space is a
tabular benchmark (as NAS-Bench-101, Ying et al. 2019): samplers and early stopping are compared on it without training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pandas as pd

from se_nas.analysis.tables import CURVE_COLUMNS
from se_nas.core.errors import RunError
from se_nas.core.protocols import Channel
from se_nas.core.trial import Epoch, Request, Result, Verdict
from se_nas.training.evaluate import metrics_of
from se_nas.training.trainers import judged_by

NEEDED = ("key", "seed", "epochs", "epoch")


class TableExecutor:
    """One slot that looks trainings up; nothing is trained, so there are no weights either.

    Parameters
    ----------
    address:
        The table, a CSV file.
    seed:
        Play back the trainings of this seed; default that which the search asks for. A network that was trained with
        one seed only has this training, whatever is asked for.

    Raises
    ------
    RunError
        If the file is no such table; later, from a search, for a training that it does not have.
    """

    def __init__(self, devices: Sequence[str], address: str, seed: int | None = None) -> None:
        self.slots = 1
        self._where, self._seed = address, seed
        self._table = _read(Path(address))
        self._values = [name for name in self._table.columns if name not in CURVE_COLUMNS]
        self._rows: Any = self._table.groupby(["key", "seed", "replicate"]).indices
        """Key, seed and replicate -> numbers of its rows."""

    def submit(
        self,
        evaluate: Callable[[Request, Channel], Result],
        request: Request,
        report: Callable[[int, Mapping[str, float]], Verdict],
    ) -> Future[Result]:
        """Report the epochs of the training that was asked for, one after the other; `evaluate` is not called."""
        future: Future[Result] = Future()
        try:
            future.set_result(self._replay(request, report))
        except Exception as error:  # carried to whoever asks for the result
            future.set_exception(error)
        return future

    def shutdown(self, *, wait: bool = True) -> None:
        """Nothing to end."""

    def _replay(self, request: Request, report: Callable[[int, Mapping[str, float]], Verdict]) -> Result:
        rows, task = self._find(request), judged_by(request)
        curve: list[Epoch] = []
        stopped = False
        for row in rows.to_dict("records"):
            metrics = {name: float(row[name]) for name in self._values if pd.notna(row[name])}
            if task.metric not in metrics:
                raise RunError(f"the table has no {task.metric!r}", where=self._where, allowed=self._values)
            curve.append(Epoch(epoch=int(row["epoch"]), metrics=metrics))
            if report(curve[-1].epoch, metrics) == "stop":
                stopped = len(curve) < len(rows)
                break
        return Result(
            trial=request.trial,
            attempt=request.attempt,
            state="stopped" if stopped else "complete",
            reason="stopped early" if stopped else "",
            metrics=metrics_of(curve[-1].metrics, task),
            curve=tuple(curve),
            seconds=float(rows["seconds"].iloc[0]) * len(curve) / len(rows),
            device="table",
        )

    def _find(self, request: Request) -> pd.DataFrame:
        """The epochs of a training, in order."""
        identity, label = request.identity, request.placement.label
        if identity.phase != "search":
            raise RunError(
                "a table of finished trainings can only be searched: nothing new can be trained from it",
                where=self._where,
                hint="give the data and --executor local to a search of its own, and confirm that one",
            )
        seeds = sorted({int(seed) for key, seed, _ in self._rows if key == identity.key})
        seed = identity.seed if self._seed is None else self._seed
        if self._seed is None and len(seeds) == 1:
            seed = seeds[0]
        training = (identity.key, seed, identity.replicate)
        if training not in self._rows:
            raise RunError(
                f"the table has no training of {label}" + (f" with seed {seed}" if seeds else ""),
                where=self._where,
                hint=f"it has seed {', '.join(map(str, seeds))}: give --executor.args.seed {seeds[0]}"
                if seeds
                else "search the backbone and the space that the table was made with (--backbone, --space, --data)",
            )
        rows: pd.DataFrame = self._table.iloc[self._rows[training]].sort_values("epoch")
        epochs = int(rows["epochs"].iloc[0])
        if epochs != identity.epochs:
            raise RunError(
                f"the trainings in the table have {epochs} epochs, those of the search {identity.epochs}",
                where=self._where,
                hint=f"give --epochs {epochs}",
            )
        if rows["epoch"].tolist() != list(range(1, epochs + 1)):
            raise RunError(
                f"the table has not each of the {epochs} epochs of {label} with seed {seed} once", where=self._where
            )
        return rows


def _read(file: Path) -> pd.DataFrame:
    """A table of learning curves; RunError if it is none."""
    if not file.is_file():
        raise RunError(f"there is no table {str(file)!r}", hint="curves.csv of a run folder is one")
    try:
        table = pd.read_csv(file, dtype={"key": str})
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors are ValueErrors
        raise RunError(f"not a CSV file: {str(error).splitlines()[0]}", where=str(file)) from error
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise RunError(
            f"the table has no column {missing[0]!r}",
            where=str(file),
            allowed=NEEDED,
            hint="curves.csv of a run folder",
        )
    for name in ("replicate", "seconds"):
        if name not in table:
            table[name] = 0
    numbers = [name for name in table.columns if name not in ("key", "placement")]
    if text := [name for name in numbers if not pd.api.types.is_numeric_dtype(table[name])]:
        raise RunError(f"column {text[0]!r} of the table has values that are no numbers", where=str(file))
    return table
