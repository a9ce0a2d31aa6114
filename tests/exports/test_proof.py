"""When a file counts as equal to the trained network."""

from __future__ import annotations

from typing import Any

import pytest

from se_nas.core.errors import RunError
from se_nas.core.trial import CostValue
from se_nas.exports.proof import Proof, judge


def proof(**changes: Any) -> Proof:
    facts: dict[str, Any] = {
        "format": "onnx-int8",
        "file": "network.onnx",
        "bytes": 1,
        "images": 1000,
        "difference": 0.3,
        "scale": 5.0,
        "agreement": 0.95,
        "accuracy": 0.8,
        "trained_accuracy": 0.81,
        "latency": CostValue(value=1.0, unit="ms", kind="measured", interval=(0.9, 1.1)),
    }
    return Proof(**{**facts, **changes})


@pytest.mark.parametrize(("difference", "scale"), [(4.9e-4, 5.0), (9.9e-5, 0.01), (0.0, 0.0)])
def test_exact_formats_that_are_equal(difference: float, scale: float) -> None:
    judge(proof(difference=difference, scale=scale), exact=True, max_drop=0.02)


@pytest.mark.parametrize(
    ("difference", "scale"), [(5.1e-4, 5.0), (1.1e-4, 0.01), (float("inf"), 5.0), (float("nan"), 5.0)]
)
def test_exact_formats_that_are_not(difference: float, scale: float) -> None:
    """Equal accuracy and predictions do not help them."""
    with pytest.raises(RunError, match="is not equal to the trained network"):
        judge(proof(difference=difference, scale=scale, agreement=1.0, accuracy=0.81), exact=True, max_drop=0.02)


def test_quantised_networks_by_their_accuracy() -> None:
    judge(proof(), exact=False, max_drop=0.02)
    judge(proof(accuracy=0.9), exact=False, max_drop=0.02)
    with pytest.raises(RunError, match=r"loses 3\.00 points of accuracy, more than 2:") as caught:
        judge(proof(accuracy=0.78), exact=False, max_drop=0.02)
    assert "--max-drop" in str(caught.value)
    with pytest.raises(RunError, match=r"loses 5\.00 points of predictions"):
        judge(proof(accuracy=None), exact=False, max_drop=0.02)
    with pytest.raises(RunError, match="loses"):
        judge(proof(difference=float("inf")), exact=False, max_drop=1.0)


def test_equal_accuracy_with_other_predictions_is_another_network() -> None:
    """Seen on a network near chance: 60 % of its predictions changed, and as many were right as before."""
    changed = proof(agreement=0.396, accuracy=0.122, trained_accuracy=0.122)
    with pytest.raises(RunError, match=r"changes 60\.4 % of the predictions, more than 20 %: it is another network"):
        judge(changed, exact=False, max_drop=0.02)
    judge(changed, exact=False, max_drop=0.1)
