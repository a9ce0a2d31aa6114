"""The search, from a configuration to a front. Read this first.

::

    config -> data, backbone -> units -> space -> exact costs     (engine.problem)
           -> plan: trainings, time, what can be told             (engine.planning)
           -> propose -> evaluate, in an executor -> tell         (engine.driver)
           -> front, best network                                 (commands.results)

The Optuna storage is the one truth; everything else is a view made from it. One driver asks and tells, executors
only train.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

from se_nas.commands.plan import announced
from se_nas.commands.results import SearchResult, conclude
from se_nas.core.config import SearchConfig
from se_nas.core.overrides import SearchSettings, configured
from se_nas.core.trial import Trial
from se_nas.engine.driver import Driver
from se_nas.engine.kept_start import start_of, study_of
from se_nas.engine.opening import open_proposer, open_study
from se_nas.engine.problem import prepare
from se_nas.engine.run_folder import RunFolder, clear_errors, default_folder
from se_nas.report.view import Progress, View


def search(
    config: SearchConfig | None = None,
    *,
    on_trial: Callable[[Trial], object] | None = None,
    progress: bool | Progress = "auto",
    view: View | None = None,
    **settings: Unpack[SearchSettings],
) -> SearchResult:
    """Run a search, or continue the search in the run folder of the configuration.

    ``search(backbone="resnet20", data="digits", budget=50, epochs=5)`` is the command line's search; see
    `se_nas.core.overrides.configured` for the possible settings.

    Parameters
    ----------
    on_trial:
        Called with every trial when it has ended. If it returns ``"stop"``, no new training is started.

    progress:
        ``auto``: a live display in a notebook or a terminal, nothing elsewhere; ``plain``: lines on standard error;
        True: a live display where possible, else lines; False: nothing.
    view:
        Shows the progress instead.

    Raises
    ------
    SeNasError
        For anything that the user can fix; finished trainings are kept.
    """
    config = configured(config, settings)
    run = RunFolder(Path(config.out) if config.out else default_folder(config))
    with run.locked(), view or View.of(progress) as shown, clear_errors(run.path):
        problem = prepare(config, run.path, init=start_of(study_of(config, run)), stage=shown.stage)
        shown.say(*problem.notes)
        study = open_study(problem, run, shown)
        if lines := problem.costs.to_measure:
            shown.say(*lines)
            shown.stage("measuring latency or memory")
        proposer = open_proposer(problem, run, study)
        shown.say(*(fit.text for fit in problem.costs.fits.values()))
        before = None if shown.quiet else announced(problem, run, study, proposer, shown)
        ended = Driver(problem, run, study, shown, proposer, on_trial).drive(before)
        shown.stage("writing the report")
        return conclude(run, study, ended)
