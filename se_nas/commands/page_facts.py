"""What the page of a run says beside the findings: read from the run folder, as it lies there now."""

from __future__ import annotations

from pathlib import Path

from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.explanation import read_explanation
from se_nas.analysis.findings import Findings
from se_nas.analysis.folded_points import read_folded
from se_nas.core.config import SearchConfig
from se_nas.core.documents import UnreadableError, from_json_text
from se_nas.core.files import weights_file
from se_nas.core.storage_url import without_password
from se_nas.data.base import DataInfo
from se_nas.engine.run_folder import RunFolder
from se_nas.engine.study import Study
from se_nas.exports.names import PLACEMENT
from se_nas.report.reading import RunFacts


def page_facts(run: RunFolder, study: Study, found: Findings, config: SearchConfig, data: DataInfo) -> RunFacts:
    """The facts of a run for its page; RunError for a file of a newer version, or one that is broken."""
    best = run.path / "best"
    files = {file.relative_to(best).as_posix(): file.stat().st_size for file in best.rglob("*") if file.is_file()}
    return RunFacts(
        folder=run.path,
        config=config,
        data=data,
        times=study.times(),
        confirmation=read_confirmed(run.path),
        explanation=read_explanation(run.path),
        folded=read_folded(run.path),
        kept=frozenset(
            t.number for t in found.trials if weights_file(run.path, t.number, t.identity.phase).is_file()
        ),
        storage=None if study.url == run.storage else without_password(study.url),
        best=files or None,
        best_key=_key_in(best),
    )  # fmt: skip


def _key_in(best: Path) -> str:
    """Key of the network in a folder; empty where its record cannot be read."""
    try:
        record = from_json_text((best / PLACEMENT).read_text())
    except (OSError, UnicodeDecodeError, UnreadableError):
        return ""
    return str(record.get("key", "")) if isinstance(record, dict) else ""
