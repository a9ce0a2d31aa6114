"""Why SE did not help in a run: the reasons, tested on its trials, its trained weights and its validation images."""

from __future__ import annotations

from dataclasses import replace

import torch

from se_nas.analysis.checks import reasons_in_words
from se_nas.analysis.confirmation import Confirmation
from se_nas.analysis.explanation import Explanation, read_explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.probe_report import read_probe
from se_nas.analysis.summary import Summary
from se_nas.analysis.why_not import Evidence, helped, why_not
from se_nas.core.config import SearchConfig
from se_nas.core.errors import reason_of
from se_nas.core.trial import Trial
from se_nas.engine.confirming import CONFIRM
from se_nas.engine.gates import Trained, explain_trial, network_to_look_at
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.storage import study_names
from se_nas.engine.study import Study
from se_nas.engine.trusted import blocks_of, check_config


def explained(
    summary: Summary,
    run: RunFolder,
    study: Study,
    found: Findings,
    config: SearchConfig,
    confirmation: Confirmation | None,
) -> Summary:
    """The summary with the reasons for its verdict, if that is not that SE helps. Takes seconds: gates are measured."""
    if helped(summary.verdict):
        return summary
    evidence = _evidence(run, study, found, config, confirmation)
    reasons = why_not(evidence)
    verdict = replace(summary.verdict, reasons=reasons_in_words(reasons))
    return replace(summary, reasons=reasons, gates=evidence.gates, verdict=verdict)


def _evidence(
    run: RunFolder, study: Study, found: Findings, config: SearchConfig, confirmation: Confirmation | None
) -> Evidence:
    """All that the reasons are tested on."""
    confirmed = confirmed_trials(study, confirmation)
    gates, why = _gates(run, study, found, config, confirmed)
    return Evidence(
        found=found,
        confirmation=confirmation,
        confirmed=confirmed,
        gates=gates,
        no_gates=why,
        probe=read_probe(run.path),
        no_probe=f"se-nas report {run.path} --probe-lr trains six short ones",
        limits=config.max,
    )


def confirmed_trials(study: Study, confirmation: Confirmation | None) -> list[Trial]:
    """The trainings of the confirm, in the order of its networks, the winner first."""
    if confirmation is None or CONFIRM not in study_names(study.url, read_only=True):
        return []
    trials = {trial.number: trial for trial in Study(study.url, CONFIRM, study.objective, {}, read_only=True).trials()}
    networks = sorted(confirmation.networks, key=lambda network: network.key != confirmation.winner)
    return [trials[number] for network in networks for number in network.trials.values() if number in trials]


def _gates(
    run: RunFolder, study: Study, found: Findings, config: SearchConfig, confirmed: list[Trial]
) -> tuple[Explanation | None, str]:
    """The gates of one network with SE, as they were explained or as they are now; or why they cannot be measured."""
    trial = network_to_look_at(found, run.path, confirmed)
    if trial is None:
        return None, "no network with SE has its weights in the run folder"
    data = found.data
    if data is None:
        return None, "the run does not say what its data are"
    known = read_explanation(run.path)
    if known is not None and (known.trial, known.phase, known.key) == (
        trial.number, trial.identity.phase, trial.placement.key,
    ):  # fmt: skip
        return known, ""
    trained = Trained(
        run=run.path, backbone=config.backbone, units=study.space.units, data=data, objective=found.objective
    )
    try:
        check_config(config, where=run.path, trust=False, only={"backbone", "data", "task"}, blocks=blocks_of(study))
        with torch.random.fork_rng(devices=[]):
            return explain_trial(trained, trial, each=False), ""
    except Exception as error:  # whatever the user's network or data raise: all else of the report is still true
        return None, f"trial {trial.number} cannot be looked at ({reason_of(error)})"
