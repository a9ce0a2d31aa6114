"""Data without a test set: said before a confirm trains anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny

from se_nas.commands.confirm import confirm
from se_nas.commands.search import search
from se_nas.core.errors import DataError
from se_nas.core.trial import Target
from se_nas.data.sealed import check_test_part, openings
from se_nas.data.store import prepare_data

MODULES = """
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Without(pl.LightningDataModule):
    num_classes = 2

    def loader(self, n):
        labels = torch.arange(n) % 2
        return DataLoader(TensorDataset(torch.randn(n, 1, 8, 8) + labels[:, None, None, None], labels), batch_size=16)

    def train_dataloader(self):
        return self.loader(32)

    def val_dataloader(self):
        return self.loader(16)


class Empty(Without):
    def test_dataloader(self):
        return []


class Elsewhere(Without):
    def setup(self, stage):
        if stage == "test":
            raise FileNotFoundError(2, "No such file or directory", "test.csv")


class Sound(Without):
    def test_dataloader(self):
        return self.loader(16)
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(MODULES)
    return f"{tmp_path / 'own.py'}:"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Without", "MisconfigurationException: "),
        ("Empty", "test_dataloader() returns []"),
        ("Elsewhere", "FileNotFoundError: [Errno 2] No such file or directory: 'test.csv'"),
        ("Sound", None),
    ],
)
def test_of_a_data_module(module: str, tmp_path: Path, name: str, reason: str | None) -> None:
    info = prepare_data(Target(target=module + name), tmp_path / "run")
    if reason is None:
        check_test_part(info)
        return
    with pytest.raises(DataError) as caught:
        check_test_part(info)
    assert caught.value.what.startswith(f"data module {module + name!r} gives no test set: {reason}")
    assert "hint: write test_dataloader(), with images that chose nothing, and confirm again" in str(caught.value)


def test_is_said_before_a_confirm_trains(module: str, tmp_path: Path) -> None:
    run = search(tiny(tmp_path, data=Target(target=f"{module}Without"), budget=2)).folder
    with pytest.raises(DataError, match="gives no test set"):
        confirm(run, top=1, seeds=1)
    assert not list((run / "weights").glob("confirm-*"))
    assert openings(run) == []
