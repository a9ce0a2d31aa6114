"""The files of the network that lies in ``best/``, beside the page."""

from __future__ import annotations

from se_nas.core.words import in_words, size_text
from se_nas.report.page import Link, Section
from se_nas.report.reading import RunReading

WHAT = {
    "model.safetensors": "the weights",
    "placement.json": "where the SE blocks are, and what se_nas.load() needs beside the weights",
}


def files_section(reading: RunReading) -> Section | None:
    """What lies in ``best/``, to download; None where the run has no such folder."""
    files, facts = reading.facts.best, reading.facts
    if not files:
        return None
    trial = next((t for t in reading.found.trials if t.placement.key == facts.best_key), None)
    name = "a network" if trial is None else f"{in_words(trial.placement.label)} (trial {trial.number})"
    recommended = reading.recommended
    why = ""
    if recommended is not None:
        same = recommended.key == facts.best_key
        why = ", the recommended network" if same else ", the best whose weights were kept"
    text = [
        f"best/ holds {name}{why}, trained in the search. The links work while this page lies in its run folder; in "
        f'Python: se_nas.load("{facts.folder.name}/best").'
    ]
    links = [Link(path=f"best/{file}", note=_note(file, size)) for file, size in sorted(files.items())]
    return Section(id="files", title="Download", text=text, links=links)


def _note(file: str, size: int) -> str:
    shown = f"{size / 1024:,.0f} KiB" if size < 2**20 else size_text(size)
    return f"({shown})" + (f": {WHAT[file]}" if file in WHAT else "")
