"""The sealed test set: what opens it, the log of its openings, and that each is of the same images and labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from se_nas.core.documents import from_json_text
from se_nas.core.errors import DataError
from se_nas.core.files import write_atomically
from se_nas.data.base import DataInfo
from se_nas.data.seals import source_checksum
from se_nas.data.split import split_checksum, split_plan
from se_nas.data.store import open_source, prepared_checksum, read_info, write_part

OPENINGS = "test_openings.jsonl"
"""File of a run folder: one line for each time that its test set was opened."""


def open_test(folder: Path, *, purpose: str) -> int:
    """Make the test set ready for `open_part`, and note it; returns how many openings the log has.

    The same purpose again is the same opening, which goes on after an interruption. Each opening has the checksum of
    the images and labels, which must be those of the openings before: else what was examined could not be compared.

    Raises
    ------
    DataError
        If the data set has changed since it was searched or opened, or has no test set.
    """
    info, log = read_info(folder), openings(folder)
    found = _test_part(folder, info, log) if info.kind == "arrays" else {}
    return _noted(folder, log, purpose, info.test, found)


def note_opening(folder: Path, *, purpose: str) -> int:
    """Note that the images of the test set were evaluated elsewhere than in the run; how many openings the log has."""
    return _noted(folder, openings(folder), purpose, read_info(folder).test, {})


def _noted(folder: Path, log: list[dict[str, Any]], purpose: str, images: int, found: Mapping[str, str]) -> int:
    """Add an opening to the log unless it is there, and to all of them what was `found`."""
    entry = {"purpose": purpose, "time": datetime.now(UTC).isoformat(timespec="seconds"), "images": images}
    new = [] if any(opening["purpose"] == purpose for opening in log) else [entry]
    kept = [{**opening, **found} for opening in (*log, *new)]
    if kept != log:
        write_atomically(folder / OPENINGS, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return len(kept)


def check_test_part(info: DataInfo) -> None:
    """DataError if there is no test set that could be opened; nothing of it is read."""
    name = info.target.target
    if info.kind == "arrays" and info.test == 0:
        raise DataError("the test set of the data set is empty", where=name)
    if info.kind != "module":
        return
    module, _ = open_source(info.target)
    hint = "write test_dataloader(), with images that chose nothing, and confirm again"
    try:
        module.prepare_data()
        module.setup("test")
        loader = module.test_dataloader()
    except Exception as error:  # whatever a user's data module raises; Lightning's own says that there is none
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"data module {name!r} gives no test set: {type(error).__name__}: {reason}", hint=hint
        ) from error
    if loader is None or (isinstance(loader, list | tuple | dict) and not loader):
        raise DataError(f"data module {name!r} gives no test set: test_dataloader() returns {loader!r}", hint=hint)


def _test_part(folder: Path, info: DataInfo, log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Have the test set lie in the folder as it was at the openings before; its checksums, for their log."""
    source, split = open_source(info.target)
    plan = split_plan(source, split)
    if split_checksum(plan) != info.split:
        raise DataError("the data set is split differently than when it was searched", where=str(folder))
    if len(plan["test"][1]) == 0:
        raise DataError("the test set of the data set is empty", where=str(folder))
    raw = source_checksum(source, plan["test"])
    if info.sources.get("test") not in (None, raw):
        raise _changed_test("when it was searched", folder)
    present = prepared_checksum(folder, "test")
    before = next((line for line in log if "checksum" in line), {})
    known: str | None = before.get("checksum")
    if known is not None and present == known and before.get("source") == raw:
        return {"checksum": known, "source": raw}
    again = folder / "data" / "again"
    write_part(again, "test", source, [plan["test"]], info.input_shape)
    found = prepared_checksum(again, "test")
    # A log of an older version has no checksums: then what was examined is what lies there.
    if found is None or (log and (known or present) not in (None, found)):
        shutil.rmtree(again)
        raise _changed_test(f"when it was opened before ({log[0].get('time', 'no time')})", folder)
    for file in sorted((again / "data").iterdir()):  # the labels last
        file.replace(folder / "data" / file.name)
    shutil.rmtree(again)
    return {"checksum": found, "source": raw}


def _changed_test(when: str, where: Path) -> DataError:
    return DataError(
        f"the test set is not what it was {when}: images or labels have changed",
        where=str(where),
        hint="restore the data, or search again with another --out",
    )


def openings(folder: Path) -> list[dict[str, Any]]:
    """What the log of a run folder says about its test set: purpose, time and number of images of each opening."""
    file = folder / OPENINGS
    if not file.is_file():
        return []
    try:
        log = [from_json_text(line) for line in file.read_text().splitlines() if line]
        if wrong := [line for line in log if not isinstance(line, dict) or "purpose" not in line]:
            raise ValueError(f"{wrong[0]!r} is not an opening")
        return log
    except ValueError as error:
        raise DataError(f"the log of test openings is broken: {error}", where=str(file)) from error
