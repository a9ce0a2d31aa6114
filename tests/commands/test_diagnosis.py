"""What a run says of its trainings and of why SE did not help: from real searches, on the terminal and on the page."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REPOSITORY, tiny, write_npz
from safetensors.torch import load_file, save_file

import se_nas
from se_nas.analysis.confirmation import read_confirmed
from se_nas.analysis.probe_report import PROBED, read_probe
from se_nas.cli import main
from se_nas.commands.probe import probe_learning_rate
from se_nas.commands.results import existing_run, report_again
from se_nas.core.errors import ConfigError, RunError
from se_nas.core.trial import Recipe, Target
from se_nas.data.store import open_part
from se_nas.engine.gates import network_to_look_at
from se_nas.insertion.block import SEBlock
from se_nas.insertion.insert import build_candidate

LABELS = 4


def random_labels(file: Path) -> Target:
    """Images of noise whose labels say nothing."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (240, 8, 8)).astype(np.uint8)
    np.savez(file, x=images, y=rng.permutation(np.arange(240) % LABELS))
    return Target(target=f"npz:{file}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight trainings of two epochs on random labels, all weights kept."""
    folder = tmp_path_factory.mktemp("random")
    config = tiny(
        folder, data=random_labels(folder / "data.npz"), budget=8, keep_weights="all",
        train=Recipe(epochs=2, batch_size=16, precision="32"),
    )  # fmt: skip
    return se_nas.search(config).folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def page_of(run: Path) -> str:
    return unescape((run / "report.html").read_text())


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


class TestNotTrained:
    def test_is_said_before_the_recommendation_everywhere(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines = printed(capsys, "report", str(run))
        said = next(i for i, line in enumerate(lines) if line.startswith("Undertrained: val_accuracy is near chance"))
        recommended = next(i for i, line in enumerate(lines) if line.startswith("Recommended so far"))
        assert said < recommended
        verdict = json.loads("\n".join(printed(capsys, "report", str(run), "--json")))["verdict"]
        assert verdict["cautions"][0]["text"] == lines[said]
        assert verdict["cautions"][0]["numbers"]["chance"] == pytest.approx(0.25)
        page = page_of(run)
        assert page.index("Undertrained: val_accuracy is near chance") < page.index("Recommended so far")
        assert "Were the networks trained enough?" in page
        assert repr(report_again(run)).index("Undertrained") < repr(report_again(run)).index("Recommended")

    def test_one_epoch_of_digits_is_near_chance_and_needs_more(self, finished: Path) -> None:
        (only,) = existing_run(finished)[1].findings().cautions
        assert only.text.startswith("Undertrained: val_accuracy is near chance")
        assert only.text.endswith("Curves still rise: give --epochs 10.")

    def test_a_confirm_says_it_of_its_own_trainings(self, copy: Path) -> None:
        found = se_nas.confirm(copy, top=1, seeds=2)
        assert found.verdict.cautions[0].text.startswith("Undertrained: val_accuracy is near chance")
        assert found.verdict.cautions[0].numbers["trainings"] == len(found.networks) * 2
        assert repr(found).index("Undertrained") < repr(found).index(found.verdict.sentences[0].text)
        assert read_confirmed(copy) == found
        names = [sentence.text for sentence in found.verdict.reasons]
        assert names or found.verdict.claim == "use"


class TestWhyNot:
    def test_each_reason_is_answered_on_the_page(self, run: Path) -> None:
        result = report_again(run)
        assert result.summary.verdict.claim in ("undecided", "without")
        assert [check.name for check in result.summary.reasons] == ["noise", "epochs", "learning rate", "gates", "cost"]
        page = page_of(run)
        assert "Why SE did not help here" in page
        for check in result.summary.reasons:
            assert check.question in page
        assert f"{run} --probe-lr" not in page, "the page may be handed on"
        assert f"se-nas report {run.name} --probe-lr" in page
        assert result.summary.gates is not None
        for block in result.summary.gates.blocks:
            assert re.search(
                rf">{block.block}<.*?>{block.mean_gate:.3f}<.*?>{100 * block.variation:.1f}<", page, re.DOTALL
            )
        checks = result.as_json()["checks"]
        assert [check["name"] for check in checks["trained"]] == ["chance", "curves", "training accuracy"]
        assert [check["name"] for check in checks["reasons"]] == [check.name for check in result.summary.reasons]

    def test_the_terminal_names_those_that_hold(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines = printed(capsys, "report", str(run))
        holding = [check for check in report_again(run).summary.reasons if check.holds]
        assert len([line for line in lines if line.startswith("Reason: ")]) == len(holding) > 0

    def test_gates_are_those_of_the_best_network_with_se(self, run: Path) -> None:
        """By hand: its weights, its validation images, and its blocks replaced by their mean gates."""
        result = report_again(run)
        check = next(check for check in result.summary.reasons if check.name == "gates")
        _, study = existing_run(run)
        found = study.findings()
        trial = network_to_look_at(found, run)
        assert trial is not None
        best = found.complete[[t.placement.blocks > 0 for t in found.trials if t.state == "complete"]]
        assert trial.number == best.loc[best["mean"].idxmax(), "trial"]
        network = build_candidate(
            Target(target="resnet8"),
            study.space.units,
            trial.placement,
            num_classes=LABELS,
            input_shape=(1, 8, 8),
            seed=5,
        )
        network.load_state_dict(load_file(run / "weights" / f"{trial.number}.safetensors"))
        assert found.data is not None
        part = open_part(run, "val")
        images = (torch.from_numpy(np.array(part.images)).float() - found.data.mean[0]) / found.data.std[0]
        network.eval()
        with torch.no_grad():
            before = network(images).argmax(1)
            for module in network.modules():
                if isinstance(module, SEBlock):
                    means: list[Any] = []
                    handle = module.register_forward_pre_hook(lambda m, a, kept=means: kept.append(m.gates(a[0])))
                    network(images)
                    handle.remove()
                    module.fixed = means[0].mean(0, keepdim=True)
            for module in network.modules():
                if isinstance(module, SEBlock):
                    module.forward = lambda u, m=module: u * m.fixed
            after = network(images).argmax(1)
        assert check.numbers["changed"] == pytest.approx(float((before != after).double().mean()), abs=1e-6)
        assert check.numbers["images"] == len(images)

    def test_without_weights_gates_are_not_tested(self, copy: Path) -> None:
        shutil.rmtree(copy / "weights")
        check = next(check for check in report_again(copy).summary.reasons if check.name == "gates")
        assert (check.holds, check.text) == (
            None, "Not tested: no network with SE has its weights in the run folder.",
        )  # fmt: skip

    def test_a_network_that_cannot_be_built_any_more_spoils_nothing_else(self, copy: Path) -> None:
        for file in (copy / "weights").glob("*.safetensors"):
            save_file({"other": torch.zeros(1)}, file)
        reasons = {check.name: check for check in report_again(copy).summary.reasons}
        assert reasons["gates"].holds is None
        assert re.search(
            r"cannot be looked at \(weights/\d\.safetensors does not fit the network", reasons["gates"].text
        )
        assert reasons["noise"].holds is not None

    def test_a_search_where_se_helps_has_nothing_to_explain(self, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from se_nas.analysis.confirmation import Verdict
        from se_nas.analysis.summary import Summary

        def use(summary: Summary) -> Verdict:
            return Verdict(phase="search", claim="use", network=summary.references["reference"].key)

        monkeypatch.setattr("se_nas.analysis.summary.provisional_verdict", use)
        result = report_again(copy)
        assert (result.summary.reasons, result.summary.verdict.reasons) == ((), ())
        assert "Why SE did not help" not in page_of(copy)


class TestProbe:
    def test_trains_six_and_the_report_says_what_it_found(self, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()}
        lines = printed(capsys, "report", str(copy), "--probe-lr")
        probe = read_probe(copy)
        assert probe is not None
        assert [(row.role, round(row.lr, 4)) for row in probe.rows] == [
            (role, lr) for role in ("baseline", "reference") for lr in (0.0333, 0.1, 0.3)
        ]
        assert all(row.value is not None and 0 <= row.value <= 1 for row in probe.rows)
        assert (probe.epochs, probe.metric) == (2, "val_accuracy")
        after = {str(p.relative_to(copy)) for p in copy.rglob("*") if p.is_file()}
        assert {name for name in after - before if not re.search(r"-wal|-shm|\.lock|^best", name)} == {PROBED}
        check = next(check for check in report_again(copy).summary.reasons if check.name == "learning rate")
        assert check.holds is not None
        assert "(2 epochs, one seed)" in check.text
        assert any("learning rate" in line for line in lines) == bool(check.holds)
        _, study = existing_run(copy)
        assert len(study.trials()) == 8, "a probe is no trial"

    def test_finds_a_rate_that_is_far_too_small(self, tmp_path: Path) -> None:
        data = Target(target=f"npz:{write_npz(tmp_path / 'data.npz', n=120)}")
        config = tiny(tmp_path, data=data, budget=6, train=Recipe(epochs=3, batch_size=8, lr=2e-4, precision="32"))
        run = se_nas.search(config).folder
        probe = probe_learning_rate(run)
        values = {(row.role, round(row.lr / probe.lr, 2)): row.value or 0.0 for row in probe.rows}
        assert values["baseline", 3.0] > values["baseline", 1.0]
        check = next(check for check in report_again(run).summary.reasons if check.name == "learning rate")
        assert check.holds
        assert "Search again with --lr 0.0006" in check.text

    def test_is_refused_where_the_rate_is_not_ours(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        loop = Target(target=f"{REPOSITORY / 'tests' / 'loops.py'}:Plain")
        run = se_nas.search(tiny(tmp_path, trainer=loop, train=Recipe(epochs=1), budget=2)).folder
        with pytest.raises(ConfigError, match="has a learning rate of its own"):
            probe_learning_rate(run)
        assert main(["report", str(run), "--probe-lr"]) == 2
        assert "has a learning rate of its own" in capsys.readouterr().err
        assert not (run / PROBED).exists()

    def test_mistakes_are_answered(self, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", str(run), "--probe-lr", "--watch"]) == 2
        assert "give one of the two" in capsys.readouterr().err
        assert main(["report", str(tmp_path), "--probe-lr"]) == 2
        assert "is not a run folder" in capsys.readouterr().err

    def test_a_broken_file_is_named(self, copy: Path) -> None:
        (copy / PROBED).write_text("{")
        with pytest.raises(RunError, match=r"probe\.json"):
            report_again(copy)
