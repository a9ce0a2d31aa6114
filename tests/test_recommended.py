"""One notion of *recommended*: terminal, ``best/``, page, export, card, Python and JSON name the same network."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import se_nas
from se_nas.analysis.confirmation import Confirmation, Verdict, read_confirmed, write_confirmed
from se_nas.cli import main
from se_nas.commands.results import report_again


def places(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What each place says: the key of its network, or of the trial that it names."""
    result = report_again(run)
    keys = {str(t.number): t.placement.key for t in result.found.trials}
    assert result.recommended is not None

    def named(text: str) -> str:
        (number,) = set(re.findall(r"Recommended (?:by the confirm|so far|until)[^:]*: .*?\(trial (\d+)\)", text))
        return keys[number]

    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    terminal = capsys.readouterr().out
    assert main(["report", str(run), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["export", str(run), "--to", str(run / "shipped"), "--force", "--json"]) == 0
    capsys.readouterr()
    shipped = json.loads((run / "shipped" / "placement.json").read_text())
    card = (run / "shipped" / "README.md").read_text()
    assert "This is the network that its run recommends" in card
    for sentence in result.summary.verdict.sentences:
        assert sentence.text.replace(str(run), run.name) in card
    return {
        "Python": result.recommended.key,
        "terminal": named(terminal),
        "page": named((run / "report.html").read_text()),
        "JSON": said["recommended"]["key"],
        "best/": json.loads((run / "best" / "placement.json").read_text())["key"],
        "export": shipped["key"],
        "repr": named(repr(result)),
    }


def test_all_places_agree_after_search_and_after_confirm(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    first = places(run, capsys)
    assert len(set(first.values())) == 1, first

    found = se_nas.confirm(run, top=1, seeds=2)
    after = places(run, capsys)
    assert len(set(after.values())) == 1, after
    assert found.verdict.network == after["best/"]

    for network in found.networks:  # whatever a confirm says is what is shipped
        verdict = Verdict(phase="confirm", claim="use", network=network.key, sentences=found.verdict.sentences)
        write_confirmed(run, replace(found, verdict=verdict))
        assert set(places(run, capsys).values()) == {network.key}


def test_a_confirm_that_can_say_nothing_leaves_it_to_the_search(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = report_again(run).recommended
    golden = read_confirmed(Path(__file__).parent / "golden" / "run-0.1")
    assert isinstance(golden, Confirmation)
    write_confirmed(run, replace(golden, verdict=Verdict(phase="confirm", claim="unknown")))
    after = report_again(run).recommended
    assert before is not None
    assert after is not None
    assert after.key in (before.key, *(n.key for n in report_again(run).summary.front))


def test_the_card_of_another_network_says_which_one_is_recommended(finished: Path, tmp_path: Path) -> None:
    result = report_again(finished)
    assert result.recommended is not None
    other = next(t for t in result.found.trials if t.number != result.recommended.trial)
    done = se_nas.export(finished, select=f"trial={other.number}", to=tmp_path / "other")
    card = (done.folder / "README.md").read_text()
    assert "This is not the network that its run recommends" in card
    assert f"{result.recommended.placement} (trial {result.recommended.trial})" in card
