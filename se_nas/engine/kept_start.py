"""How the SE blocks of a run started when it began: it goes on so, whatever has become the default since.

A search space that does not give `init` means the identity in a new run. A run that began before that was the default,
or in a space that gave `init: plain`, keeps the plain start for all that it trains from now on; its study says which.
"""

from __future__ import annotations

from se_nas.core.config import SearchConfig
from se_nas.engine.run_folder import STUDY, RunFolder
from se_nas.engine.storage import may_exist
from se_nas.engine.study import Study


def study_of(config: SearchConfig, run: RunFolder, *, name: str = STUDY, read_only: bool = False) -> Study | None:
    """The study that a run of this configuration goes on with; None if it is new."""
    storage = config.storage or run.storage
    return Study.latest(storage, name, read_only=read_only) if may_exist(storage) else None


def start_of(study: Study | None) -> str | None:
    """``identity`` or ``plain``; None of no study, and of one whose gates start in both ways."""
    found: str | None = None if study is None else study.facts["space"]["spec"]["init"]
    return found
