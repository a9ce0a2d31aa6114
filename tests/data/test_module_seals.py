"""What a user's data module gives is what it gave: other items are refused, an unchanged module never is."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import environment, tiny

from se_nas.commands.confirm import confirm
from se_nas.commands.search import search
from se_nas.commands.train import train_placement
from se_nas.core.config import TrainConfig
from se_nas.core.errors import RunError
from se_nas.core.trial import Recipe, Target
from se_nas.data import module_seals
from se_nas.data.module_seals import Seal, seal_changed, seal_module
from se_nas.data.store import open_source, prepare_data, read_info
from se_nas.report.view import View

MODULE = """
import random
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, random_split

HERE = Path(__file__).parent


class Images(Dataset):
    def __init__(self, part, kind):
        with np.load(HERE / "images.npz") as file:
            self.images, self.labels = file[f"x_{part}"], file[f"y_{part}"]
        self.kind, self.own = kind, np.random.default_rng()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index]).float()[None] / 255
        if self.kind == "augmented":  # by all generators that augmentations use
            image = image + 0.1 * torch.rand(1) + 0.1 * random.random() + 0.1 * np.random.rand()
            image = image.float()
        if self.kind == "noisy":
            image = (image + self.own.random()).float()
        if self.kind == "objects":
            return {"image": image, "label": int(self.labels[index]), "more": Images}
        if self.kind == "dictionary":
            file = Image.fromarray(self.images[index])
            return {"label": int(self.labels[index]), "image": file, "more": [None, "x", 1.5, np.float32(2)]}
        return image, int(self.labels[index])


class Stream(IterableDataset):
    def __iter__(self):
        yield from (Images("train", "plain")[i] for i in range(8))


class Data(pl.LightningDataModule):
    num_classes = 2

    def __init__(self, kind="plain"):
        super().__init__()
        self.kind = kind

    def setup(self, stage):
        self.train, self.val = Images("train", self.kind), Images("val", "plain")
        if self.kind == "split":
            self.train, self.val = random_split(self.train, [0.5, 0.5])
        if self.kind == "seeded":
            self.train, self.val = random_split(self.train, [0.5, 0.5], torch.Generator().manual_seed(7))
        if self.kind == "reversed":
            self.train = Subset(self.train, range(len(self.train))[::-1])
        if self.kind == "stream":
            self.train = Stream()

    def train_dataloader(self):
        loader = DataLoader(self.train, batch_size=8, shuffle=self.kind != "stream")
        return [loader, {"more": DataLoader(self.val)}] if self.kind == "several" else loader

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=8)

    def test_dataloader(self):
        return DataLoader(Images("val", "plain"), batch_size=8)
"""

Change = Callable[[dict[str, np.ndarray]], object]


def write(folder: Path, change: Change | None = None, n: int = 24) -> Path:
    generator = np.random.default_rng(0)
    content = {f"x_{part}": generator.integers(0, 256, (n, 8, 8)).astype(np.uint8) for part in ("train", "val")}
    content |= {f"y_{part}": np.arange(n) % 2 for part in ("train", "val")}
    if change is not None:
        change(content)
    np.savez(folder / "images.npz", **content)  # type: ignore[arg-type]
    (folder / "mine.py").write_text(MODULE)
    return folder / "mine.py"


def one_pixel(name: str, content: dict[str, np.ndarray]) -> None:
    content[name][13, 2, 3] ^= 1


def one_label(name: str, content: dict[str, np.ndarray]) -> None:
    content[name][5] = 1 - content[name][5]


def target(folder: Path, kind: str = "plain") -> Target:
    return Target(target=f"{folder / 'mine.py'}:Data", args={"kind": kind})


def sealed(folder: Path, kind: str = "plain") -> tuple[dict[Any, str], tuple[str, ...]]:
    def opened() -> Any:
        return open_source(target(folder, kind))[0]

    module = opened()
    module.setup("fit")
    return seal_module(module, opened)


class TestSeal:
    @pytest.mark.parametrize("kind", ["plain", "augmented", "seeded", "dictionary", "several"])
    def test_of_an_unchanged_module_is_the_same(self, tmp_path: Path, kind: str) -> None:
        write(tmp_path)
        first, said = sealed(tmp_path, kind)
        assert (set(first), said) == ({"train", "val"}, ())
        random.random(), torch.rand(3), np.random.rand()  # wherever the streams stand
        assert sealed(tmp_path, kind)[0] == first
        assert max(Seal.read(first["train"]).sums) == {"seeded": 12, "several": 48}.get(kind, 24)  # all of them

    @pytest.mark.parametrize("kind", ["plain", "augmented", "dictionary", "several"])
    @pytest.mark.parametrize("change", [one_pixel, one_label])
    def test_of_one_other_pixel_or_label_is_another(self, tmp_path: Path, kind: str, change: Any) -> None:
        write(tmp_path)
        first, _ = sealed(tmp_path, kind)
        write(tmp_path, lambda content: change(("x" if change is one_pixel else "y") + "_train", content))
        second, _ = sealed(tmp_path, kind)
        assert seal_changed(first["train"], second["train"])
        assert not seal_changed(first["val"], second["val"])

    def test_does_not_depend_on_the_order(self, tmp_path: Path) -> None:
        """That of files which a folder lists as it likes."""
        write(tmp_path)
        straight, other = sealed(tmp_path)[0]["train"], sealed(tmp_path, "reversed")[0]["train"]
        assert not seal_changed(straight, other)
        assert Seal.read(straight).sums[1] != Seal.read(other).sums[1]

    def test_sees_items_that_are_gone_or_new(self, tmp_path: Path) -> None:
        write(tmp_path)
        first, _ = sealed(tmp_path)
        write(tmp_path, n=25)
        assert seal_changed(first["train"], sealed(tmp_path)[0]["train"])

    def test_of_a_sample_is_compared_by_what_both_have_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(tmp_path)
        whole, _ = sealed(tmp_path)
        monkeypatch.setattr(module_seals, "SECONDS", 0.0)
        sample, said = sealed(tmp_path)
        assert said == ()
        assert set(Seal.read(sample["train"]).sums) == {1}
        assert not seal_changed(whole["train"], sample["train"])
        assert not seal_changed(sample["train"], whole["train"])
        write(tmp_path, lambda content: content["x_train"].fill(7))
        assert seal_changed(whole["train"], sealed(tmp_path)[0]["train"])

    def test_with_other_packages_proves_no_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path)
        first, _ = sealed(tmp_path)
        monkeypatch.setattr(module_seals, "_packages", lambda: "others")
        assert not seal_changed(first["train"], sealed(tmp_path)[0]["train"])
        write(tmp_path, lambda content: one_pixel("x_train", content))
        assert not seal_changed(first["train"], sealed(tmp_path)[0]["train"])

    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            ("split", "they differ each time that they are asked for"),
            ("noisy", "they differ each time that they are asked for"),
            ("stream", "they are a stream, or come from a loader without a data set of items"),
            ("objects", "their items hold a type, whose content is not known"),
        ],
    )
    def test_says_where_there_is_none(self, tmp_path: Path, kind: str, why: str) -> None:
        write(tmp_path)
        seals, said = sealed(tmp_path, kind)
        assert said[0] == f"data: changes of the training images cannot be noticed: {why}"
        assert set(seals) == (set() if kind == "split" else {"val"})

    def test_leaves_the_random_streams_where_they_were(self, tmp_path: Path) -> None:
        write(tmp_path)
        streams = (torch.get_rng_state, random.getstate, lambda: np.random.get_state()[1].tolist())  # type: ignore[index]
        before = [stream() for stream in streams]
        sealed(tmp_path, "augmented")
        assert torch.equal(torch.get_rng_state(), before[0])
        assert [stream() for stream in streams[1:]] == before[1:]

    def test_is_the_same_in_other_processes(self, tmp_path: Path) -> None:
        write(tmp_path)
        here = prepare_data(target(tmp_path, "augmented"), tmp_path / "here").prepared
        code = (
            "import sys; from pathlib import Path; import ray, setuptools; "  # they add folders to sys.path
            "from se_nas.core.trial import Target; "
            "from se_nas.data.store import prepare_data; "
            f"prepare_data(Target(target={target(tmp_path).target!r}, args={{'kind': 'augmented'}}), Path(sys.argv[1]))"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=environment(PYTHONHASHSEED="7")
        )
        assert read_info(tmp_path / "there").prepared == here


class TestRun:
    def settings(self, folder: Path, kind: str = "plain", **changes: Any) -> Any:
        return tiny(folder, data=target(folder, kind), budget=2, train=Recipe(epochs=1, batch_size=8), **changes)

    @pytest.mark.parametrize("name", ["x_train", "y_train", "x_val", "y_val"])
    def test_does_not_go_on_with_other_items(self, tmp_path: Path, name: str) -> None:
        write(tmp_path)
        search(self.settings(tmp_path, "augmented"))
        write(tmp_path, lambda content: (one_pixel if name[0] == "x" else one_label)(name, content))
        part, other = ("training", "validation") if name.endswith("train") else ("validation", "training")
        with pytest.raises(RunError, match=f"data: the {part} images or labels have changed") as caught:
            search(self.settings(tmp_path, "augmented"))
        assert f"the {other} images" not in str(caught.value)
        with pytest.raises(RunError, match=f"data: the {part} images or labels have changed"):
            confirm(tmp_path / "run", top=1, seeds=1)
        write(tmp_path)
        assert len(search(self.settings(tmp_path, "augmented")).trials) == 2  # as soon as they are as they were

    def test_goes_on_with_what_cannot_be_compared_and_says_so(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path)
        for _ in range(2):
            search(self.settings(tmp_path, "split"), view=View())
            said = " ".join("".join(capsys.readouterr()).split())
            for part in ("training", "validation"):
                assert f"data: changes of the {part} images cannot be noticed: they differ each time" in said

    def test_nor_does_a_long_training(self, tmp_path: Path) -> None:
        write(tmp_path)
        config = TrainConfig(
            placement="none", backbone=Target(target="resnet8"), data=target(tmp_path), device="cpu",
            executor=Target(target="inline"), train=Recipe(epochs=1, batch_size=8), out=str(tmp_path / "train"),
        )  # fmt: skip
        train_placement(config)
        assert json.loads((tmp_path / "train" / "data" / "data.json").read_text())["prepared"].keys() == {
            "train",
            "val",
        }
        write(tmp_path, lambda content: one_label("y_val", content))
        with pytest.raises(RunError, match="data: the validation images or labels have changed"):
            train_placement(config)
