"""Settings that hold for every test, and the runs that several tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers import exhausted_run, units_of
from hypothesis import HealthCheck, Phase, settings

from se_nas.core.placement import Unit
from se_nas.space.space import Space
from se_nas.space.spec import read_space

torch.set_num_threads(1)
settings.register_profile(
    "se-nas", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
# For tests/mutants.py, which runs a test again and again in one process and asks only whether it fails.
settings.register_profile(
    "mutants",
    parent=settings.get_profile("se-nas"),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("se-nas")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=100, help="inputs that the tests in fuzz/ try, all kinds together")
    parser.addoption("--fuzz-seed", type=int, default=0, help="another seed: other inputs")


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where names that were given are kept: never in the home folder of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("state")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def units8() -> tuple[Unit, ...]:
    """The units of resnet8 on digits: one in each of three stages, with 16, 32 and 64 channels."""
    return units_of("resnet8")


@pytest.fixture
def space8(units8: tuple[Unit, ...]) -> Space:
    """Its default space, of 64 placements."""
    return Space(read_space("stagewise"), units8)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that trained a whole space of eight placements. Read it; copy it to change it."""
    return exhausted_run(tmp_path_factory.mktemp("finished"))
