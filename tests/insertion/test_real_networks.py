"""Units of real networks, judged by their libraries' own block classes, fusing methods and SE twins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the networks are timm's")
pytest.importorskip("torchvision", reason="timm needs it")
sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "real_networks"))

import run
import twins
from blocks import judge

from se_nas.insertion.discover import find_units

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the libraries

SHAPE = (3, 64, 64)

ONE_IN_EACH = {
    "blocks without a skip": ["efficientnet_es", "mobilenetv2_035", "tf_efficientnetv2_b0"],
    "two units in one block": ["mobilenetv4_conv_small"],
    "sums that are fused": ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050"],
    "aggregation": ["vovnet39a", "hgnetv2_b0", "selecsls42", "darknet17", "cs3darknet_focus_s"],
    "cells": ["nasnetalarge"],
    "classifiers of convolutions": ["vgg11"],
    "dual paths": ["dpn68", "dpn48b"],
    "channels last": ["mambaout_femto"],
    "as before": ["resnet18", "densenet121", "res2next50", "inception_v3", "hrnet_w18_small"],
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in ONE_IN_EACH.items() for name in names], ids=lambda value: value
)
def test_one_unit_in_each_block_and_none_elsewhere(kind: str, name: str) -> None:
    model, shape = run.build("timm", name)
    verdict = judge(model.eval(), find_units(model.eval(), shape if name in ("vgg11", "inception_v3") else SHAPE))
    assert verdict.right == verdict.blocks > 0
    assert (verdict.wrong, verdict.missing) == (0, 0)


@pytest.mark.parametrize(
    "name", ["repvgg_a0", "mobileone_s0", "fastvit_t8", "repvit_m0_9", "repghostnet_050", "ghostnetv3_050"]
)
def test_fusing_keeps_every_block_and_the_output(name: str) -> None:
    model, _ = run.build("timm", name)
    units = find_units(model.eval(), SHAPE)
    fused = run.fused("timm", model, units, SHAPE)
    assert fused["fused_blocks"] == f"{len(units)}/{len(units)}"
    assert float(fused["fused_difference"]) < 1e-5


@pytest.mark.parametrize(("name", "count"), [("yolov8n", 9), ("yolo11n", 11)])
def test_yolo_has_one_unit_in_each_block(name: str, count: int) -> None:
    pytest.importorskip("ultralytics", reason="the networks are Ultralytics' own")
    model, shape = run.build("ultralytics", name)
    units = find_units(model.eval(), shape)
    verdict = judge(model, units)
    assert (verdict.right, verdict.wrong, verdict.missing) == (9, 0, 0)
    assert len(units) == count  # YOLO11 has a block with attention too
    fused = run.fused("ultralytics", model, units, shape)
    assert fused["fused_blocks"] == f"{count}/{count}"
    assert float(fused["fused_difference"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("seresnet18", "standard"),
        ("seresnext50_32x4d", "standard"),
        ("nf_seresnet26", "standard"),
        ("sedarknet21", "family"),
        ("regnety_002", "family"),
        ("efficientnet_b0", "family"),
        ("mobilenetv3_small_100", "family"),
    ],
)
def test_a_network_with_our_blocks_is_its_se_twin(name: str, position: str) -> None:
    row = twins.compare(next(pair for pair in twins.PAIRS if pair.twin == name))
    assert row["channels_equal"] == row["widths_equal"] == row["blocks"]
    assert row["position"] == position
    assert row["params_equal"]
    assert float(row["difference"]) < 1e-5
