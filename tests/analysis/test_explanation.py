"""What is said of SE blocks: which word for which number, and that each decision can come out otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from se_nas.analysis.class_share import ClassShare, Trend
from se_nas.analysis.excitation import Change, Excitation, Paired, Saturation
from se_nas.analysis.explanation import FOLDER, RECORD, Explanation, read_explanation
from se_nas.core.errors import RunError
from se_nas.core.serialization import to_json
from se_nas.core.trial import CostValue


def change(changed: float | None, difference: float = 0.0, p: float = 0.5) -> Change:
    paired = Paired(
        value=0.9 + difference, difference=difference, low=difference - 0.01, high=difference + 0.01,
        family_low=difference - 0.02, family_high=difference + 0.02, p=p / 2, family_p=p,
    )  # fmt: skip
    return Change(changed=changed, paired=paired)


def block(**more: Any) -> Excitation:
    facts: dict[str, Any] = {
        "block": "layer4.1", "module": "layer4.1.se", "kind": "block", "channels": 2, "size": (4, 4),
        "mean": (0.5, 0.7), "sd": (0.1, 0.1), "variation": 0.16, "saturation": Saturation(at_zero=0.0, at_one=0.0),
        "params": 1088,
    }  # fmt: skip
    return Excitation(**{**facts, **more})


def share(adjusted: float, p: float = 0.001) -> ClassShare:
    return ClassShare(share=adjusted + 0.01, expected=0.02, adjusted=adjusted, low=0, high=1, p=p, family_p=p)


def said(*blocks: Excitation, **more: Any) -> tuple[str, ...]:
    return Explanation(blocks=blocks, images=100, metric="val_accuracy", unit="share", value=0.9, **more).sentences


class TestDoes:
    @pytest.mark.parametrize(
        ("frozen", "does"),
        [
            (change(0.0), "idle"),
            (change(0.01), "idle"),
            (change(0.011), "open"),
            (change(0.3, -0.2, p=0.2), "open"),
            (change(0.3, -0.2, p=0.001), "needed"),
            (change(0.009, -0.009, p=0.001), "needed"),
            (Change(changed=0.005), "idle"),
            (Change(changed=0.5), "open"),
        ],
    )
    def test_frozen_says_what_a_block_does(self, frozen: Change, does: str) -> None:
        assert block(frozen=frozen).does == does
        assert block(frozen=frozen, variation=0.01).does == does.replace("idle", "constant")

    def test_what_was_not_frozen_is_told_by_its_gates(self) -> None:
        assert block(variation=0.01).does == "constant"
        assert block(variation=0.02).does == "open"
        assert block(variation=0.02, frozen=Change(changed=None)).does == "open"

    def test_a_margin_must_be_excluded_for_the_whole_family(self) -> None:
        assert change(0.0, -0.001).costs_less_than(0.022)
        assert not change(0.0, -0.001).costs_less_than(0.02)
        assert not Change(changed=0.0).costs_less_than(1.0)


class TestTreats:
    @pytest.mark.parametrize(
        ("between", "treats"),
        [
            (None, None),
            (share(0.09), "alike"),
            (share(0.4, p=0.05), "alike"),
            (share(0.1), "partly"),
            (share(0.49), "partly"),
            (share(0.5), "specific"),
        ],
    )
    def test_needs_a_share_beyond_chance_and_a_p_value(self, between: ClassShare | None, treats: str | None) -> None:
        assert block(between=between).treats == treats


class TestWords:
    def test_constant(self) -> None:
        time = CostValue(value=0.4, unit="ms", kind="measured")
        (sentence,) = said(block(frozen=change(0.002), variation=0.004, between=share(0.4), milliseconds=time))
        assert sentence == (
            "The block in layer4.1 multiplies by a constant: frozen at its mean gates, 0.2 % of the predictions "
            "change. Folding it away would save 1,088 parameters and 0.4 ms, if se-nas export --fold finds no loss."
        )

    def test_idle(self) -> None:
        (sentence,) = said(block(frozen=change(0.002), between=share(0.96)))
        assert sentence == (
            "The block in layer4.1 might as well multiply by a constant: its gates vary by 16.0 %, but frozen at its "
            "mean gates, 0.2 % of the predictions change. Folding it away would save 1,088 parameters, if "
            "se-nas export --fold finds no loss. It is "
            "class-specific: classes explain 97 % of the spread of its gates (2 % by chance, p 0.001)."
        )

    def test_needed(self) -> None:
        (sentence,) = said(block(frozen=change(0.3, -0.24, p=0.001), between=share(0.6)))
        assert sentence == (
            "The block in layer4.1 is needed: frozen at its mean gates, val_accuracy is worse by 24.00 points (90 % "
            "interval -25.00 to -23.00). It is class-specific: classes explain 61 % of the spread of its gates (2 % by "
            "chance, p 0.001)."
        )

    def test_open(self) -> None:
        (sentence,) = said(
            block(frozen=change(0.03, 0.005), between=share(0.05, p=0.4), saturation=Saturation(at_zero=0.6, at_one=0))
        )
        assert sentence == (
            "The block in layer4.1: frozen at its mean gates, val_accuracy is better by 0.50 points (90 % interval "
            "-0.50 to +1.50), which may be noise; 3.0 % of the predictions change. It treats all classes alike: "
            "classes explain 6 % of the spread of its gates (2 % by chance, p 0.400). 60 % of its gates are at 0."
        )

    def test_not_frozen(self) -> None:
        assert said(block()) == ("The block in layer4.1: its gates vary by 16.0 % from image to image.",)

    def test_where_the_network_gives_no_class(self) -> None:
        (sentence,) = said(block(frozen=Change(changed=0.2)), classes=False)
        assert sentence.endswith("frozen at its mean gates, the output changes by 20.0 % of its size.")

    def test_at_the_end_of_a_range(self) -> None:
        (sentence,) = said(block(saturation=Saturation(at_zero=0, at_one=0, top=2.0, at_top=0.8)))
        assert sentence.endswith("80 % of its gates are at 2, the most that they can be.")

    def test_all_at_once(self) -> None:
        first = said(block(), block(), all_frozen=change(0.2, -0.1, p=0.001), all_removed=change(0.5, -0.3, p=0.001))[0]
        assert first == (
            "With both blocks frozen at once, val_accuracy is worse by 10.00 points (90 % interval -11.00 to -9.00). "
            "With both taken out, val_accuracy is worse by 30.00 points (90 % interval -31.00 to -29.00)."
        )

    @pytest.mark.parametrize(
        ("trend", "start"),
        [
            ((0.05, 0.6, 0.4, 0.7), "Early blocks treat classes alike and late ones do not, as in the SE paper"),
            ((0.2, 0.6, 0.3, 0.5), "Late blocks are more class-specific than early ones, as in the SE paper"),
            ((0.05, 0.3, 0.1, 0.4), "Late blocks are more class-specific than early ones, as in the SE paper"),
            ((0.6, 0.1, -0.6, -0.4), "Early blocks are more class-specific than late ones, other than in the SE paper"),
            ((0.1, 0.6, -0.1, 0.9), "Early and late blocks do not differ in how they treat classes, other than in"),
        ],
    )
    def test_early_and_late(self, trend: tuple[float, float, float, float], start: str) -> None:
        early, late, low, high = trend
        found = Trend(early=early, late=late, difference=late - early, low=low, high=high)
        assert said(block(), trend=found)[0].startswith(start)

    def test_how_many_of_each(self) -> None:
        idle, needed = block(frozen=change(0.0)), block(frozen=change(0.5, -0.3, p=0.001))
        assert said(idle, needed, idle)[0] == "Of 3 SE blocks: 2 idle, 1 needed."
        assert not any(sentence.startswith("Of ") for sentence in (*said(idle), *said(idle, block())))

    def test_what_was_not_looked_at(self) -> None:
        assert said(block(), others=(("body", "it is written twice"),))[0] == (
            "The block in body was not looked at: it is written twice."
        )


class TestRecord:
    def found(self) -> Explanation:
        full = block(
            frozen=change(0.1), removed=change(0.2), between=share(0.3), shares=(0.1, 0.2), class_means=((1, 2),)
        )
        return Explanation(blocks=(full, block()), images=9, shown=(3,), shown_names=("=x",), trial=4)

    def test_comes_back_as_it_was_written(self, tmp_path: Path) -> None:
        assert read_explanation(tmp_path) is None
        file = tmp_path / FOLDER / RECORD
        file.parent.mkdir()
        file.write_bytes(to_json(self.found(), indent=1))
        assert read_explanation(tmp_path) == self.found()

    def test_a_broken_one_is_named(self, tmp_path: Path) -> None:
        file = tmp_path / FOLDER / RECORD
        file.parent.mkdir()
        for content in ("{", '{"blocks": 1}', '{"schema": 99}'):
            file.write_text(content)
            with pytest.raises(RunError, match=r"explanation\.json is broken: [\s\S]*hint: remove it, or explain"):
                read_explanation(tmp_path)

    def test_a_block_that_was_not_frozen_is_an_empty_cell(self) -> None:
        table = self.found().table()
        assert table["frozen_changed"].isna().tolist() == [False, True]
        assert table["class_share"].isna().tolist() == [False, True]
        assert not self.found().measured
        whole = replace(self.found(), blocks=(self.found().blocks[0],))
        assert whole.measured
        assert whole.channels()["mean_of_=x"].tolist() == [1, 2]
