"""From a run to a folder that can be given away: choose, write, prove, describe."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.findings import Findings
from se_nas.analysis.folded_points import keep_folded
from se_nas.analysis.selection import select as select_trial
from se_nas.analysis.summary import Summary, summarize
from se_nas.commands.diagnosis import confirmed_trials
from se_nas.commands.folding import FoldedExport, fold_trial
from se_nas.commands.results import SearchResult, existing_run, report_again, stored
from se_nas.core.config import SearchConfig
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.files import user_path, write_atomically
from se_nas.core.serialization import to_json, to_plain
from se_nas.core.trial import Trial
from se_nas.core.words import in_words, level_of
from se_nas.data.base import DataInfo
from se_nas.engine.gates import Trained as TrainedNetworks
from se_nas.engine.gates import network_to_look_at
from se_nas.engine.trusted import blocks_of, check_config, check_data
from se_nas.exports.bundle import (
    Advice,
    Estimate,
    Exported,
    describe,
    folder_whole,
    kept_weights,
    load,
    write_network,
)
from se_nas.exports.formats import CALIBRATION, write_format
from se_nas.exports.images import part_images
from se_nas.exports.model_card import model_card
from se_nas.exports.names import PLACEMENT, WEIGHTS, check_formats, listed_names
from se_nas.exports.proof import MAX_DROP, Proof, Trained, observe, prove
from se_nas.exports.writers import OPSET, Job
from se_nas.report.diagram import draw_network, network_file
from se_nas.report.view import View

CARD = "README.md"
PICTURE = "network.svg"
FOLDED = "folded"
"""Selects the recommended network, or if that has no SE the best with SE that has weights, and folds it."""
PROOF = "proof.json"


@dataclass(frozen=True, kw_only=True)
class Export:
    """A folder that was written, and the proof of each file in it."""

    folder: Path
    record: Exported
    proofs: tuple[Proof, ...]

    def as_json(self) -> dict[str, Any]:
        """What ``se-nas export --json`` prints."""
        record = self.record
        content = {
            "folder": str(self.folder), "placement": record.placement.label, "key": record.key, "trial": record.trial,
            "costs": to_plain(record.costs), "proofs": to_plain(self.proofs),
        }  # fmt: skip
        return content if record.folded is None else {**content, "folded": to_plain(record.folded)}

    def __repr__(self) -> str:
        """The folder, the network and the proven files."""
        files = ", ".join(proof.file for proof in self.proofs)
        return f"Export({str(self.folder)!r}, {self.record.placement!r}, proven: {files})"


def export(
    run: str | Path | SearchResult,
    *,
    select: str = "recommended",
    formats: str | Iterable[str] = ("safetensors",),
    to: str | Path | None = None,
    force: bool = False,
    license: str = "",
    opset: int = OPSET,
    max_drop: float = MAX_DROP,
    fold: bool = False,
    fold_margin: float | None = None,
    trust: bool = False,
    storage: str | None = None,
    view: View | None = None,
) -> Export:
    """Export a network of a run to a folder; each file is verified against the trained network.

    Every file is loaded in a process of its own and run on real validation images. If the outputs of one differ,
    nothing is written: the folder is complete or not there at all.

    Parameters
    ----------
    run:
        A run folder, or the result of `se_nas.search`.
    select:
        ``recommended``, ``folded``, ``observed-best``, ``knee``, ``baseline``, ``reference``, ``given``, ``trial=N`` or
        ``max-COST=X``: see `se_nas.analysis.selection.select`.
    formats:
        Any of ``safetensors`` (always written), ``python``, ``pt2``, ``pt2-half``, ``onnx``, ``onnx-half``,
        ``onnx-int8``; a list, or names separated by commas.
    to:
        The folder to write; by default ``RUN/export-KEY``.
    force:
        Whether to replace an existing export.
    license:
        The license stated in the model card, such as ``apache-2.0``.
    opset:
        Version of the ONNX operator set.
    max_drop:
        Accuracy that half precision and quantisation may lose, between 0 and 1.
    fold:
        Whether to fold effectively constant SE blocks into the neighbouring weights.
    fold_margin:
        With `fold`: the loss up to which a block is treated as constant, by a paired test on validation images; in
        points if the metric is a share (default 0.1), else in its unit.
    trust:
        Whether to run code that the folder names even if you have never given its name on this machine.
    storage:
        The storage that the folder names, if its study is not in the folder itself.
    view:
        Shows what is being done; by default nothing is shown.

    Raises
    ------
    SeNasError
        If there is no such trial or format, a package is missing, the folder already exists, the network cannot be
        written in a format, or a verification fails.
    """
    names = check_formats(listed_names(formats))
    if not 0 <= max_drop <= 1:
        raise ConfigError(f"max_drop is {max_drop}", allowed=["a number between 0 and 1"])
    if fold_margin is not None and not 0 <= fold_margin < math.inf:
        raise ConfigError(f"fold_margin is {fold_margin}", allowed=["a number of at least 0"])
    shown = view or View(quiet=True)
    shown.stage("reading the run")
    run_folder, study = existing_run(Path(run.folder if isinstance(run, SearchResult) else run), storage=storage)
    found = study.findings()
    confirmation = read_confirmed(run_folder.path)
    trial = select_trial(found, "recommended" if select == FOLDED else select, confirmation)
    if select == FOLDED and not trial.placement.blocks:
        trial = network_to_look_at(found, run_folder.path, confirmed_trials(study, confirmation)) or trial
    weights = kept_weights(run_folder.path, trial)
    fold = fold or fold_margin is not None or select == FOLDED
    default = run_folder.path / (f"export-{trial.placement.key}" + ("-folded" if fold else ""))
    target = default if to is None else user_path(to).absolute()
    _check_target(target, force=force)
    data, config = stored(study, "data", DataInfo), stored(study, "config", SearchConfig)
    check_config(config, where=run_folder.path, trust=trust, only=("backbone",), blocks=blocks_of(study))
    check_data(data, where=run_folder.path, trust=trust)
    record = describe(
        trial,
        backbone=config.backbone,
        units=study.space.units,
        data=data,
        estimate=_estimate(found, trial),
        license=license,
        advice=_advice(summarize(found, folder=str(run_folder.path), confirmation=confirmation), trial),
    )

    folded: FoldedExport | None = None
    if fold:
        shown.stage("folding SE blocks into the neighbouring weights")
        check_config(config, where=run_folder.path, trust=trust, only=("task",))
        of = TrainedNetworks(
            run=run_folder.path, backbone=config.backbone, units=study.space.units, data=data,
            objective=found.objective,
        )  # fmt: skip
        folded = fold_trial(of, trial, record, space=study.space, margin=fold_margin, runtimes=_timed_in(names))
        record = folded.record

    def calibration() -> Tensor:
        shown = part_images(run_folder.path, data, "train", limit=CALIBRATION)
        if not shown.real:
            raise RunError(
                "int8 needs images to calibrate with, and the trainer that brings the data shows none",
                hint="write images(), which returns some as a tensor (n, channels, *size), beside it",
            )
        return shown.images

    try:
        with folder_whole(target) as temporary:
            shown.stage(f"writing {', '.join(names)}, and proving each file in a process of its own")
            own = weights if folded is None else folded.write_weights(temporary / WEIGHTS)
            write_network(temporary, record, own, trust=trust)
            job = Job(
                network=load(temporary, trust=trust),
                record=record,
                folder=temporary,
                calibration=calibration,
                opset=opset,
            )
            trained = observe(job.network, part_images(run_folder.path, data, "val"))
            _check_recorded(record, trained)
            proofs = _write_and_prove(names, job, trained, max_drop)
            write_atomically(temporary / PROOF, to_json(proofs, indent=2))
            picture = draw_network(study.space.units, record.placement, title=in_words(record.placement.label))
            write_atomically(temporary / PICTURE, network_file(picture))
            write_atomically(temporary / CARD, model_card(record, proofs, picture=PICTURE).encode())
    except OSError as error:
        raise RunError(
            f"cannot write {str(target)!r}: {error.strerror or error}", hint="give another --to, or free space there"
        ) from error
    if folded is not None:
        keep_folded(run_folder.path, folded.point(trial))
        report_again(run_folder.path, storage=storage)
    return Export(folder=target, record=record, proofs=proofs)


def _timed_in(formats: Sequence[str]) -> list[str]:
    """The latencies that say what folding saves in the formats that are written."""
    return ["latency", *(["latency@onnxruntime"] if any(name.startswith("onnx") for name in formats) else [])]


def _check_target(target: Path, *, force: bool) -> None:
    """RunError if the folder may not be written: it is there already, or it is not an export and would be lost."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not (target / PLACEMENT).is_file():
        raise RunError(f"{str(target)!r} is there already and is not an export", hint="give another --to")
    if not force:
        raise RunError(
            f"there is an export in {str(target)!r} already", hint="give another --to, or --force to replace it"
        )


def _advice(summary: Summary, trial: Trial) -> Advice:
    """What the verdict of the run was, and whether this network is the recommended one."""
    recommended = summary.recommended
    return Advice(
        confirmed=summary.confirmed,
        recommended=recommended is not None and recommended.key == trial.placement.key,
        instead="" if recommended is None else f"{recommended.placement} (trial {recommended.trial})",
        # What leaves the house names the run, not where it lies on this machine.
        verdict=tuple(
            sentence.text.replace(summary.folder, Path(summary.folder).name)
            for sentence in (*summary.verdict.cautions, *summary.verdict.sentences)
        ),
    )


def _estimate(found: Findings, trial: Trial) -> Estimate | None:
    table = found.complete
    row = table[table["trial"] == trial.number].iloc[0]
    if row.isna()["mean"]:
        return None
    return Estimate(
        metric=found.objective.metric,
        mean=float(row["mean"]),
        lower=float(row["lower"]),
        upper=float(row["upper"]),
        trainings=len(table),
    )


def _write_and_prove(names: Sequence[str], job: Job, trained: Trained, max_drop: float) -> tuple[Proof, ...]:
    with tempfile.TemporaryDirectory() as workshop:
        for name in names:  # first all of them: what cannot be written shows before the long proofs
            write_format(name, job)
        return tuple(prove(name, job.folder, trained, Path(workshop), max_drop=max_drop) for name in names)


def _check_recorded(record: Exported, trained: Trained) -> None:
    """RunError if the weights do not have the accuracy that was recorded when they were trained.

    Only where both are of the same images; a little may differ, as training may run in bf16.
    """
    identity, recorded = record.identity, record.metrics.get("val_accuracy")
    whole = record.data is not None and record.data.kind == "arrays" and len(trained.data.images) == trained.data.of
    if identity is None or not identity.classifies or not whole:
        return
    if recorded is None or trained.accuracy is None:
        return
    allowed = max(3 / trained.data.of, 0.03 if identity.precision == "bf16" else 0.005)
    if abs(trained.accuracy - recorded.value) > allowed:
        raise RunError(
            f"the weights in the run folder are not those that trial {record.trial} was trained to: their accuracy on "
            f"the validation set is {level_of(trained.accuracy, 'share')}, and {level_of(recorded.value, 'share')} was "
            "recorded",
            hint="bring the file back, or train the placement again with se-nas train",
        )
