"""The data plug-ins of experiments/controls: generated images on which SE must help, and blank ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import REPOSITORY

from se_nas.backbones.build import build_backbone
from se_nas.cli import main
from se_nas.commands.explain import explain_run
from se_nas.core.errors import DataError, PluginError
from se_nas.core.plugins import load
from se_nas.core.trial import Target
from se_nas.data.store import prepare_data

FOLDER = REPOSITORY / "experiments" / "controls"


class TestContext:
    def made(self, name: str) -> Any:
        return load(f"{FOLDER / 'context.py'}:{name}")

    def test_same_seed_same_images_and_parts_of_their_own(self) -> None:
        one, two = (self.made("context")(train=40, val=24, test=24, seed=3) for _ in range(2))
        for part in ("train", "val", "test"):
            first, second = (next(c.images(part, np.arange(24))) for c in (one, two))
            assert (first == second).all()
        assert (next(one.images("val", np.arange(24))) != next(one.images("test", np.arange(24)))).any()
        assert first.shape == (24, 1, 16, 32)

    def test_strip_is_wider_than_what_bagnet_sees(self) -> None:
        net: Any = build_backbone(Target(target="bagnet8"), num_classes=2, input_shape=(1, 16, 32), seed=0).eval()
        image = torch.randn(1, 1, 16, 32, requires_grad=True)
        features = net.layer3(net.layer2(net.layer1(net.bn1(net.conv1(image)).relu())))
        widths = []
        for column in range(features.shape[3]):
            image.grad = None
            features[..., column].sum().backward(retain_graph=True)
            assert image.grad is not None
            seen = image.grad.abs().sum((0, 1, 2)).nonzero().ravel()
            widths.append(int(seen.max() - seen.min()) + 1)
        assert max(widths) == 11 <= self.made("STRIP")

    def test_only_both_parts_together_tell_the_class(self) -> None:
        images, labels = self.made("draw")(4000, np.random.default_rng(0))
        bright = images[:, 0, :, -10:].mean((1, 2)) > 127.5
        assert abs(labels[bright].mean() - 0.5) < 0.05
        assert labels.mean() == pytest.approx(0.5, abs=0.01)

    def test_too_few_images(self) -> None:
        with pytest.raises(DataError, match="too few images: val 7"):
            self.made("context")(val=7)

    def test_is_no_built_in_name(self, tmp_path: Path) -> None:
        with pytest.raises(PluginError, match="unknown data 'context'"):
            prepare_data(Target(target="context"), tmp_path)

    @pytest.mark.slow
    def test_the_block_in_stage_1_is_needed(self, tmp_path: Path) -> None:
        """Only a block whose gates look at the whole image can tell the class; later ones could as well be constant."""
        arguments = (
            "--backbone bagnet8 --placement all:16 --epochs 16 --batch-size 32 --optimizer adamw --lr 0.005 "
            "--weight-decay 0.01 --augment none --seed 3 --device cpu --quiet"
        ).split()
        data = ["--data", f"{FOLDER / 'context.py'}:context", "--space", "{init: plain}"]
        assert main(["train", *arguments, *data, "--out", str(tmp_path / "run")]) == 0
        found = explain_run(tmp_path / "run").found
        first, *_, last = found.blocks
        assert found.value is not None
        assert found.value > 0.95
        assert (first.block, first.does) == ("layer1.0.bn2", "needed")
        assert first.frozen is not None
        assert first.frozen.paired is not None
        assert first.frozen.paired.high < -0.05
        assert last.does in ("idle", "constant")
        assert last.frozen is not None
        assert last.frozen.costs_less_than(0.02)
        assert found.trend is not None
        assert found.trend.low > 0.3


class TestBlank:
    def target(self, **args: Any) -> Target:
        return Target(target=f"{FOLDER / 'blank.py'}:blank", args=args)

    def test_parts_and_classes(self, tmp_path: Path) -> None:
        info = prepare_data(self.target(shape=[3, 4, 6], classes=5), tmp_path)
        assert (info.input_shape, len(info.classes)) == ((3, 4, 6), 5)

    @pytest.mark.parametrize("shape", [[3], [3, "x", 4], [3, 0, 4], [1, 2, 3, 4], [3, -4, 4], "3,4,4"])
    def test_a_wrong_shape(self, tmp_path: Path, shape: object) -> None:
        with pytest.raises(DataError, match="the shape of the images is"):
            prepare_data(self.target(shape=shape), tmp_path)

    def test_too_few_classes(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="classes is 1"):
            prepare_data(self.target(shape=[3, 4, 4], classes=1), tmp_path)
