"""What latencies are called, and limits on them as people give them: to the command line, in a file, in Python."""

from __future__ import annotations

from typing import Any

import pytest

from se_nas.cli import main, parse
from se_nas.commands.shared_options import settings_of
from se_nas.core.config import Limits, SearchConfig, measured_costs
from se_nas.core.costs import cost_facts
from se_nas.core.errors import ConfigError
from se_nas.core.latency_names import RUNTIMES, canonical, is_latency, table_files
from se_nas.core.overrides import configured
from se_nas.core.words import cost_with_unit


def given(*words: str) -> SearchConfig:
    return configured(None, settings_of(parse(["search", *words]).search, SearchConfig))


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        (["--max.latency@onnxruntime", "5ms"], Limits(own={"latency@onnxruntime": 5.0})),
        (["--max-latency@onnxruntime-int8=0.5s"], Limits(own={"latency@onnxruntime-int8": 500.0})),
        (["--max-latency@torch-compile", "800us", "--max.own.energy", "3"],
         Limits(own={"latency@torch-compile": 0.8, "energy": 3.0})),
        (["--max-latency", "5ms"], Limits(latency=5.0)),
        (["--max.latency@torch", "7"], Limits(latency=7.0)),
        (["--max_latency", "7", "--max-params", "100"], Limits(latency=7.0, params=100.0)),
    ],
)  # fmt: skip
def test_limits_on_the_command_line(words: list[str], limits: Limits) -> None:
    assert given(*words).max == limits


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({"max": {"latency@onnxruntime": "5ms"}}, Limits(own={"latency@onnxruntime": 5.0})),
        ({"max_latency@onnxruntime": 5, "max_own": {"energy": 1.0}},
         Limits(own={"energy": 1.0, "latency@onnxruntime": 5.0})),
        ({"max_latency": "0.005s", "max": Limits(params=7.0, own={"latency@torch-compile": 2.0})},
         Limits(params=7.0, latency=5.0, own={"latency@torch-compile": 2.0})),
        ({"max": {"latency@torch": 4}}, Limits(latency=4.0)),
    ],
)  # fmt: skip
def test_limits_in_python_and_yaml(settings: dict[str, Any], limits: Limits) -> None:
    assert configured(None, settings).max == limits


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cost": "latency@onx"}, "cost is latency@onx, and there is no runtime or table 'onx'"),
        ({"measure": ["latency@pixel8"]}, "a table is named after its file: --latency-table pixel8.json"),
        ({"max_latency@tpu": 5}, "max_own is latency@tpu"),
        ({"max_latency@onnxruntime": "-1ms"}, "max"),
        ({"max_latency@onnxruntime": 0}, r"max_latency@onnxruntime is 0.0\n  allowed: a number above 0"),
        ({"max_latency": "fast"}, "max_latency is 'fast'\n  allowed: a number"),
        ({"latency_threads": 0}, "latency_threads is 0"),
        ({"latency_table": "torch.json"}, "the table is called by the name of its file, 'torch'"),
        ({"latency_table": "my phone.json"}, "rename the file"),
        ({"latency_table": "a/x.json,b/x.json"}, "no other table's name"),
    ],
)
def test_what_is_wrong_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configured(None, settings)


def test_the_command_line_says_it_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "--max-latency@onnx", "5ms"]) == 2
    error = capsys.readouterr().err
    assert "ConfigError: max_own is latency@onnx" in error
    assert "hint: did you mean 'onnxruntime'?" in error


def test_names() -> None:
    assert all(is_latency(f"latency@{name}") for name in RUNTIMES)
    assert not any(map(is_latency, ("latency_low", "latency@onnxruntime_low", "memory", "latencies")))
    assert given("--cost", "gflops,latency@torch").cost == "gflops,latency"
    assert canonical("latency@torch") == "latency"
    assert given("--measure", "latency@onnxruntime,memory").measure == ["latency@onnxruntime", "memory"]
    assert given("--measure", "[latency]").measure == ["latency"]
    assert cost_facts("latency@onnxruntime-int8").head == "latency in ONNX Runtime, 8-bit (ms)"
    assert cost_with_unit("latency@pixel8") == "latency@pixel8 (ms)"


def test_which_are_measured() -> None:
    config = configured(None, {
        "cost": "gflops,latency@onnxruntime", "measure": ["memory"], "max_latency@p8": "3ms",
        "latency_table": "p8.json",
    })  # fmt: skip
    assert measured_costs(config) == {"latency@onnxruntime", "memory", "latency@p8"}
    assert table_files(config.latency_table) == {"latency@p8": "p8.json"}
