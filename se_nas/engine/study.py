"""The Optuna study as the one truth: trials as records in, trials as records out.

Every trial keeps its whole record in the user attribute ``record``; ``placement``, ``key`` and the main costs stand
beside it for optuna-dashboard. A rejected and a stopped trial are told as pruned with a violated constraint (told as
failed, Optuna's samplers would propose them again and again).
"""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from optuna.trial import TrialState

from se_nas.analysis.findings import Findings
from se_nas.core.config import Limits
from se_nas.core.costs import COSTS, SHOWN
from se_nas.core.errors import RunError
from se_nas.core.placement import PLAIN, Unit, start_named
from se_nas.core.serialization import from_plain, to_plain
from se_nas.core.storage_url import shown
from se_nas.core.trial import CostValue, Objective, Trial
from se_nas.data.base import DataInfo
from se_nas.engine.storage import identity_of, open_storage, reading, study_names, sync, turn
from se_nas.samplers.observations import REPEATS
from se_nas.space.latency_fit import LatencyFit
from se_nas.space.levels import distributions
from se_nas.space.space import Space
from se_nas.space.spec import SpaceSpec

FITS = "latencies"
"""Attribute of a study: how latency was measured, by cost."""

LEASE = 60.0
"""Seconds that a running trial belongs to its owner without a sign of life."""

CLOCKS = 600.0
"""Seconds by which the clocks of two machines may differ without a word."""

SET_BACK = " (a clock was set back meanwhile: the time between these two is not known)"

EARLIER: dict[str, Any] = {"vary_seed": False, "trainer": {"target": "lightning", "args": {}}}
"""What held for studies that were made before it could be set: facts and settings of the configuration."""

_STATES = {
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "stopped": TrialState.PRUNED,
    "rejected": TrialState.PRUNED,
}


class Study:
    """Trials of one search, or of one phase of it.

    Drivers that share a study take turns: what they see in their `turn` stays as it is until its end.

    Parameters
    ----------
    storage:
        An Optuna storage URL.
    facts:
        What must be equal for the study to go on: kept with a new study, compared by the caller for an old one.
    read_only:
        Whether the study is there and nothing in its storage may change.
    """

    lease = LEASE

    def __init__(
        self, storage: str, name: str, objective: Objective, facts: Mapping[str, Any], *, read_only: bool = False
    ) -> None:
        self.url = storage
        self.storage = open_storage(storage, read_only=read_only)
        self.turn = turn(storage)
        """Held while several steps must be one for other drivers of the study."""
        self.name = name
        with reading(storage), _quiet():
            if read_only:
                self.optuna = optuna.load_study(study_name=name, storage=self.storage)
            else:
                self.optuna = optuna.create_study(
                    storage=self.storage,
                    study_name=name,
                    directions=[objective.direction, "minimize"],
                    load_if_exists=True,
                )
            if not self.optuna.user_attrs:
                self.optuna.set_metric_names([objective.metric, objective.cost])
                self.optuna.set_user_attr("facts", dict(facts))
                self.optuna.set_user_attr("objective", to_plain(objective))
        self._identity = identity_of(storage)
        self._finished: dict[int, Trial] = {}
        self._trial_ids: dict[int, int] = {}
        self._repeats = from_plain(self.optuna.user_attrs.get(REPEATS, {}), dict[str, tuple[float, ...]])
        self._measured = from_plain(self.optuna.user_attrs.get("measured", {}), dict[str, dict[str, CostValue]])

    def check_there(self) -> None:
        """RunError if the file of the study was removed or replaced since it was opened: writes would go nowhere."""
        if identity_of(self.url) != self._identity:
            raise RunError(
                f"the study {shown(self.url)!r} was removed or replaced while it was in use",
                hint="bring the file back (with its -wal and -shm), or begin again in another --out: "
                "what was trained since is not in it",
            )

    def times(self) -> tuple[str, str]:
        """When the first trial was started and the last one ended, to the second; empty where not known.

        That is what the clocks of the drivers said; where one was set back meanwhile, the second text says so.
        """
        frozen = self.optuna.get_trials(deepcopy=False)
        started = {t.number: t.datetime_start for t in frozen if t.datetime_start is not None}
        ended = {t.number: t.datetime_complete for t in frozen if t.datetime_complete is not None}
        if not started:
            return "", ""
        steps = [ended[number] - start for number, start in started.items() if number in ended]
        steps.append(min(started.values()) - started[min(started)])  # nothing begins before the first one
        back = min(step.total_seconds() for step in steps) < -CLOCKS
        last = f"{max(ended.values()):%Y-%m-%d %H:%M:%S}" if ended else ""
        return f"{min(started.values()):%Y-%m-%d %H:%M:%S}", last + (SET_BACK if back else "")

    @property
    def facts(self) -> dict[str, Any]:
        """What the study was made with."""
        facts = {**EARLIER, **self.optuna.user_attrs["facts"]}
        if (space := facts.get("space")) is None:  # of a confirm
            return facts
        init = space["spec"].get("init", PLAIN)
        spec = {**space["spec"], "init": None if init is None else start_named(init)}
        return {**facts, "space": {**space, "spec": spec}}

    @functools.cached_property
    def objective(self) -> Objective:
        """What the study compares."""
        return from_plain(self.optuna.user_attrs["objective"], Objective, where=f"study {self.name}")

    @functools.cached_property
    def space(self) -> Space:
        """The space that the study was made with."""
        plain = self.facts["space"]
        where = f"study {self.name}"
        spec = from_plain(plain["spec"], SpaceSpec, where=where)
        return Space(spec, from_plain(plain["units"], tuple[Unit, ...], where=where))

    def trials(self) -> list[Trial]:
        """All trials that have a record, by number; those still waiting have none."""
        found = []
        measured = self._measured
        with reading(self.url):
            try:
                stored = self.optuna.get_trials(deepcopy=False)
            except ValueError as error:  # JSON that is no value of Python
                raise optuna.exceptions.StorageInternalError(str(error)) from error
        for frozen in stored:
            if frozen.number not in self._finished:
                if "record" not in frozen.user_attrs:
                    continue
                record = from_plain(frozen.user_attrs["record"], Trial, where=f"trial {frozen.number}")
                record = replace(record, number=frozen.number)
                if record.placement.key in measured:
                    record = replace(record, costs={**record.costs, **measured[record.placement.key]})
                if frozen.state == TrialState.COMPLETE and record.placement.key in self._repeats:
                    record = replace(record, repeats=self._repeats[record.placement.key])
                if not frozen.state.is_finished():
                    found.append(replace(record, state="running", counts=False))  # it is paid for once it is told
                    continue
                self._check(record)
                self._finished[frozen.number] = record
            found.append(self._finished[frozen.number])
        return found

    def findings(self) -> Findings:
        """What all trials say by now."""
        config = self.optuna.user_attrs.get("config", {})
        data = self.optuna.user_attrs.get("data")
        return Findings(
            trials=self.trials(),
            objective=self.objective,
            space=self.space,
            asked=config.get("margin"),
            limits=from_plain(config.get("max") or {}, Limits, where=f"study {self.name}"),
            data=None if data is None else from_plain(data, DataInfo, where=f"study {self.name}"),
            fits=from_plain(self.optuna.user_attrs.get(FITS, {}), dict[str, LatencyFit], where=f"study {self.name}"),
        )

    def _check(self, record: Trial) -> None:
        """RunError if a complete trial lacks what the study compares."""
        if record.state != "complete":
            return
        lacking = [f"metric {name!r}" for name in (self.objective.metric,) if name not in record.metrics]
        lacking += [f"cost {name!r}" for name in (self.objective.cost,) if name not in record.costs]
        if lacking:
            raise RunError(
                f"trial {record.number} is complete, but its record has no {lacking[0]}", where=shown(self.url)
            )

    @classmethod
    def latest(cls, storage: str, name: str, *, read_only: bool = False) -> Study | None:
        """The study of this name, in the widest space that it was carried over to; None if there is none.

        One that was not carried over as a whole is deleted, since its driver died in the middle, or passed over where
        nothing may be written.
        """
        with reading(storage):
            begun = turn(storage)
        with begun:  # another driver may be making it
            own = [n for n in study_names(storage, read_only=read_only) if n == name or n.startswith(f"{name}, space ")]
            for candidate in sorted(own, key=lambda n: (len(n), n), reverse=True):
                study = cls._existing(storage, candidate, read_only)
                if study.optuna.user_attrs.get("carried over", True):
                    return study
                if not read_only:
                    optuna.delete_study(study_name=candidate, storage=study.storage)
            return None

    @classmethod
    def _existing(cls, storage: str, name: str, read_only: bool) -> Study:
        with reading(storage):
            opened = open_storage(storage, read_only=read_only)
            attrs = optuna.load_study(study_name=name, storage=opened).user_attrs
        if "space" not in attrs.get("facts", {}) or "objective" not in attrs:
            raise RunError(f"study {name!r} was not made by se-nas search", where=shown(storage))
        objective = from_plain(attrs["objective"], Objective)
        return cls(storage, name, objective, attrs["facts"], read_only=read_only)

    def widen(self, facts: Mapping[str, Any], space: Space) -> Study:
        """A new study in a wider space, with all trials under their numbers and keys.

        Optuna keeps the range of a parameter for good, and its model-based samplers ignore trials of another range.
        """
        number = 2 + sum(n.startswith(f"{self.name.partition(',')[0]}, space ") for n in study_names(self.url))
        wider = Study(self.url, f"{self.name.partition(',')[0]}, space {number}", self.objective, facts)
        wider.optuna.set_user_attr("carried over", False)
        ranges = distributions(space.parameters)
        before = self.facts["space"]["parameters"]
        after = to_plain(space.parameters)

        def moved(levels: Mapping[str, int]) -> dict[str, int]:
            return {name: after[name].index(before[name][level]) for name, level in levels.items()}

        for frozen in self.optuna.get_trials():
            frozen.params = moved(frozen.params)
            frozen.distributions = {name: ranges[name] for name in frozen.params}
            if (fixed := frozen.system_attrs.get("fixed_params")) is not None:
                frozen.system_attrs = {**frozen.system_attrs, "fixed_params": moved(fixed)}
            wider.optuna.add_trial(frozen)
        wider.optuna.set_user_attr("carried over", True)
        return wider

    def fail_unrecorded(self) -> None:
        """Fail trials that were asked for and never started, since their driver died in between."""
        with self.turn:
            for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if "record" not in frozen.user_attrs:
                    self.optuna.tell(frozen.number, state=TrialState.FAIL)

    def join(self, owner: str) -> int:
        """Enter a driver; returns how many there were before it."""
        with self.turn:
            drivers: list[str] = [*self.optuna.user_attrs.get("drivers", []), owner]
            self.optuna.set_user_attr("drivers", drivers)
        return len(drivers) - 1

    def enqueued(self, role: str) -> bool:
        """Whether a trial with this role waits to be asked for."""
        waiting = self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return any(frozen.user_attrs.get("role") == role for frozen in waiting)

    def keep_measured(self, values: Mapping[str, Mapping[str, CostValue]]) -> None:
        """Keep costs that were measured after their trials were told; they take the place of predicted ones."""
        if values:
            self.optuna.set_user_attr("measured", to_plain(values))
            self._measured = {key: dict(costs) for key, costs in values.items()}
            self._finished.clear()

    def keep_fits(self, fits: Mapping[str, LatencyFit]) -> None:
        """Keep how latency was measured, and how good its predictions are."""
        if fits:
            self.optuna.set_user_attr(FITS, to_plain(fits))

    def keep_repeats(self, values: Mapping[str, Sequence[float]]) -> None:
        """Keep the metric of further trainings of networks, by key: they inform posterior and sampler."""
        self.optuna.set_user_attr(REPEATS, {key: list(numbers) for key, numbers in values.items()})
        self._repeats = {key: tuple(numbers) for key, numbers in values.items()}
        self._finished.clear()

    def ask(self, space: Space) -> tuple[optuna.Trial, dict[str, int]]:
        """The next assignment of levels: an enqueued one, or the sampler's."""
        with _quiet():
            trial = self.optuna.ask(distributions(space.parameters))
        return trial, {name: int(value) for name, value in trial.params.items()}

    def ask_nothing(self) -> optuna.Trial:
        """A running trial without parameters, for a placement that is chosen elsewhere: its record has all."""
        template = optuna.trial.create_trial(state=TrialState.RUNNING)
        return optuna.Trial(self.optuna, self.storage.create_new_trial(self._study_id, template_trial=template))

    def start(self, trial: optuna.Trial, record: Trial) -> Trial:
        """Keep the record of a trial that is about to run."""
        record = replace(record, number=trial.number, lease=time.time() + self.lease)
        self._write(trial.number, "record", to_plain(record))
        return record

    def renew(self, record: Trial) -> None:
        """Give a running trial a new lease; nothing happens if it was told meanwhile."""
        record = replace(record, lease=time.time() + self.lease)
        with self.turn, contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._write(record.number, "record", to_plain(record))

    def kept(self, number: int) -> Trial | None:
        """The record of a trial that has ended and was never told, since its driver died in between; else None."""
        for frozen in self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number == number and "record" in frozen.user_attrs:
                record = from_plain(frozen.user_attrs["record"], Trial, where=f"trial {number}")
                return None if record.state == "running" else replace(record, number=number)
        return None

    def finish(self, record: Trial) -> bool:
        """Keep a finished trial, on the disk; False if it was finished already (by another driver).

        RunError if the study's file is not the one that was opened.
        """
        with self.turn:
            self.check_there()
            finished = self._finish(record)
            sync(self.storage)
            self.check_there()
        return finished

    def _finish(self, record: Trial) -> bool:
        objective = self.objective
        values = None
        if record.state == "complete":
            values = [record.metrics[objective.metric].value, record.costs[objective.cost].value]
        attributes: dict[str, Any] = {
            "record": to_plain(record),
            "key": record.placement.key,
            "placement": record.placement.label,
        }
        for name, cost in record.costs.items():
            if name != objective.cost and (name in SHOWN or name not in COSTS):
                attributes[f"{name} ({cost.unit})"] = cost.value
        if record.reason:
            attributes["reason"] = record.reason
        if record.counts:  # what samplers need to know of a stopped trial, and of those that it is compared with
            attributes["curve"] = [epoch.metrics[objective.metric] for epoch in record.curve]
            attributes["epochs"] = record.identity.epochs
        try:
            for name, value in attributes.items():
                self._write(record.number, name, value)
            if record.state in ("rejected", "stopped"):
                optuna.Trial(self.optuna, self._trial_id(record.number)).set_constraint(record.state, 1.0)
            with _quiet():
                self.optuna.tell(record.number, values, state=_STATES[record.state])
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def enqueue(self, levels: Mapping[str, int], **facts: Any) -> None:
        """Have an assignment proposed next; the facts (role, attempts) come back with the proposal."""
        self.optuna.enqueue_trial(dict(levels), user_attrs=facts)

    def waiting(self) -> int:
        """How many enqueued assignments have not been asked for yet."""
        return len(self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _write(self, number: int, name: str, value: Any) -> None:
        """Set a user attribute; `optuna.Trial` would read the whole trial first."""
        self.storage.set_trial_user_attr(self._trial_id(number), name, value)

    def _trial_id(self, number: int) -> int:
        if number not in self._trial_ids:
            found = self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            self._trial_ids[number] = found
        return self._trial_ids[number]

    @functools.cached_property
    def _study_id(self) -> int:
        return self.storage.get_study_id_from_name(self.name)


@contextlib.contextmanager
def _quiet() -> Any:
    """Without Optuna's notes: that a study is made, that a feature is experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
