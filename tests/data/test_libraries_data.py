"""Data sets of Hugging Face and of torchvision: columns, splits, targets, and what cannot be used."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.core.errors import DataError
from se_nas.core.trial import Target
from se_nas.data.base import DataInfo
from se_nas.data.store import open_part, open_source, prepare_data


def prepare(target: str, folder: Path, **args: Any) -> DataInfo:
    return prepare_data(Target(target=target, args=args), folder)


def fails(target: str, folder: Path, **args: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepare(target, folder, **args)
    return str(caught.value)


def pictures(number: int, seed: int = 0, side: int = 8, mode: str = "RGB") -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    shape = (number, side, side) if mode == "L" else (number, side, side, 3)
    return [Image.fromarray(p) for p in generator.integers(0, 256, shape, dtype=np.uint8)]


class TestHub:
    @pytest.fixture(autouse=True)
    def library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        datasets = pytest.importorskip("datasets", reason="needs the extra datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        return datasets

    def rows(self, datasets: Any, number: int = 20, seed: int = 0, **columns: Any) -> Any:
        features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
        content = {"picture": pictures(number, seed), "kind": [i % 2 for i in range(number)]}
        for name, (feature, values) in columns.items():
            features[name], content[name] = feature, values
        return datasets.Dataset.from_dict(content, features=datasets.Features(features))

    def test_a_saved_data_set_with_all_its_splits(self, library: Any, tmp_path: Path) -> None:
        parts = {"train": self.rows(library), "validation": self.rows(library, 8, 1), "test": self.rows(library, 6, 2)}
        library.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
        info = prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "run")
        assert (info.classes, info.input_shape) == (("cat", "dog"), (3, 8, 8))
        assert (info.train, info.val, info.test) == (20, 8, 6)
        part = open_part(tmp_path / "run", "val")
        np.testing.assert_array_equal(part.labels, [i % 2 for i in range(8)])
        expected = np.stack([np.asarray(p).transpose(2, 0, 1) for p in pictures(8, 1)])
        np.testing.assert_array_equal(part.images, expected)
        assert not list((tmp_path / "run" / "data").glob("test*"))
        before = (tmp_path / "run" / "data" / "train_images.npy").stat().st_mtime_ns
        assert prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "run") == info
        assert (tmp_path / "run" / "data" / "train_images.npy").stat().st_mtime_ns == before

    def test_one_part_is_split_as_other_data_are(self, library: Any, tmp_path: Path) -> None:
        self.rows(library, 40).save_to_disk(str(tmp_path / "saved"))
        info = prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "run", val_fraction=0.25)
        assert (info.train, info.val, info.test) == (22, 10, 8)

    def test_parquet_files(self, library: Any, tmp_path: Path) -> None:
        (tmp_path / "files").mkdir()
        self.rows(library).to_parquet(str(tmp_path / "files" / "train.parquet"))
        self.rows(library, 10, 1).to_parquet(str(tmp_path / "files" / "test.parquet"))
        info = prepare(f"hf:{tmp_path / 'files'}", tmp_path / "run")
        assert (info.train, info.val, info.test, info.classes) == (16, 4, 10, ("cat", "dog"))

    def test_an_image_folder(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            for kind in ("cat", "dog"):
                folder = tmp_path / "files" / part / kind
                folder.mkdir(parents=True)
                for index, picture in enumerate(pictures(6, mode="L")):
                    picture.save(folder / f"{index}.png")
        info = prepare(f"hf:{tmp_path / 'files'}", tmp_path / "run")
        assert (info.classes, info.input_shape, info.test) == (("cat", "dog"), (1, 8, 8), 12)

    def test_several_labels_and_masks(self, library: Any, tmp_path: Path) -> None:
        names = library.ClassLabel(names=["red", "round", "big"])
        several = [[i % 3] if i % 2 else [0, 2] for i in range(20)]
        masks = [Image.fromarray((np.asarray(p)[..., 0] > 128).astype(np.uint8)) for p in pictures(20)]
        both = self.rows(library, tags=(library.List(names), several), mask=(library.Image(), masks))
        both = both.remove_columns("kind")
        both.save_to_disk(str(tmp_path / "saved"))
        info = prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "run", image="picture", label="tags")
        assert (info.classes, info.target_shape) == (("red", "round", "big"), (3,))
        assert set(map(tuple, open_part(tmp_path / "run", "train").labels.tolist())) <= {
            (1, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)}  # fmt: skip
        info = prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "masks", image="picture", label="mask")
        assert (info.classes, info.target_shape) == (("0", "1"), (8, 8))
        part = open_part(tmp_path / "masks", "train")
        np.testing.assert_array_equal(part.labels, part.images[:, 0] > 128)

    def test_a_size_for_images_and_masks(self, library: Any, tmp_path: Path) -> None:
        masks = [Image.fromarray(np.full((8, 8), i % 3, dtype=np.uint8)) for i in range(20)]
        self.rows(library, mask=(library.Image(), masks)).save_to_disk(str(tmp_path / "saved"))
        info = prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "run", image="picture", label="mask", size=4)
        assert (info.input_shape, info.target_shape, len(info.classes)) == ((3, 4, 4), (4, 4), 3)

    def test_labels_of_a_competition_are_hidden(self, library: Any, tmp_path: Path) -> None:
        hidden = self.rows(library).cast_column("kind", library.Value("int64")).map(lambda _: {"kind": -1})
        shown = self.rows(library).cast_column("kind", library.Value("int64"))
        library.DatasetDict({"train": shown, "test": hidden}).save_to_disk(str(tmp_path / "saved"))
        info = prepare(f"hf:{tmp_path / 'saved'}", tmp_path / "run")
        assert info.train + info.val + info.test == 20

    def test_columns_and_splits_that_cannot_be_told(self, library: Any, tmp_path: Path) -> None:
        two = self.rows(library, coarse=(library.ClassLabel(names=["a", "b"]), [0, 1] * 10))
        library.DatasetDict({"left": two, "right": two}).save_to_disk(str(tmp_path / "saved"))
        target = f"hf:{tmp_path / 'saved'}"
        assert "the data set has the splits left, right" in fails(target, tmp_path)
        assert "--data.args.splits.train NAME" in fails(target, tmp_path)
        named = {"splits": {"train": "left"}}
        text = fails(target, tmp_path, **named)
        assert "2 columns may be the label" in text
        assert "allowed: kind, coarse" in text
        assert "did you mean 'coarse'?" in fails(target, tmp_path, label="coars", **named)
        assert "there is no image column 'pic'" in fails(target, tmp_path, image="pic", label="kind", **named)
        assert "allowed: train: left or right" in fails(target, tmp_path, splits={"train": "middle"})
        info = prepare(target, tmp_path / "run", label="coarse", splits={"train": "left", "test": "right"})
        assert (info.test, info.classes) == (20, ("a", "b"))

    def test_no_images(self, library: Any, tmp_path: Path) -> None:
        library.Dataset.from_dict({"text": ["a", "b"], "n": [0, 1]}).save_to_disk(str(tmp_path / "saved"))
        assert "no column is of a type for the image" in fails(f"hf:{tmp_path / 'saved'}", tmp_path)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "datasets cannot load" in fails(f"hf:{tmp_path / 'empty'}", tmp_path)

    def test_a_search(self, library: Any, tmp_path: Path) -> None:
        self.rows(library, 60).save_to_disk(str(tmp_path / "saved"))
        result = search(tiny(tmp_path, data=Target(target=f"hf:{tmp_path / 'saved'}"), budget=2))
        assert list(result.trials["state"]) == ["complete"] * 2


def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    code = main(["search", "--data", "hf:cifar10", "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert code == 2
    assert "datasets" in error
    assert "pip install datasets" in error


# torchvision


@pytest.fixture(scope="module")
def torchvision_datasets() -> Any:
    try:
        import torchvision.datasets
    except Exception as error:  # not there, or built for another torch
        pytest.skip(f"needs torchvision: {type(error).__name__}")
    return torchvision.datasets


class TestReal:
    """Small files in the formats of its data sets, read by torchvision itself."""

    def test_three_splits(self, torchvision_datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Flowers102: `split` chooses the part, labels are private."""
        from scipy.io import savemat

        folder = tmp_path / "flowers-102"
        (folder / "jpg").mkdir(parents=True)
        for index, picture in enumerate(pictures(45), start=1):
            picture.save(folder / "jpg" / f"image_{index:05d}.jpg")
        savemat(folder / "imagelabels.mat", {"labels": [[1 + i % 3 for i in range(45)]]})
        ids = {"trnid": [range(1, 31)], "valid": [range(31, 40)], "tstid": [range(40, 46)]}
        savemat(folder / "setid.mat", {name: [list(rows[0])] for name, rows in ids.items()})
        monkeypatch.setattr(torchvision_datasets.Flowers102, "_check_integrity", lambda _: True)
        opened: list[str] = []
        real = Image.open
        monkeypatch.setattr(
            Image,
            "open",
            lambda file, **named: opened.append(Path(getattr(file, "name", file)).name) or real(file, **named),
        )
        info = prepare("torchvision:Flowers102", tmp_path / "run", root=str(tmp_path))
        assert (info.train, info.val, info.test) == (30, 9, 6)
        assert opened
        assert not [name for name in opened if int(name[6:11]) >= 40], "an image of the test set was decoded"
        splits = {"train": "test", "test": "train"}
        other = prepare("torchvision:Flowers102", tmp_path / "swap", root=str(tmp_path), splits=splits)
        assert (other.train, other.val) == (6, 9)

    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_masks(self, torchvision_datasets: Any, tmp_path: Path) -> None:
        """VOCSegmentation: `image_set` chooses the part, nothing lists the targets."""
        base = tmp_path / "VOCdevkit" / "VOC2012"
        for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (base / name).mkdir(parents=True)
        for index, picture in enumerate(pictures(25)):
            picture.save(base / "JPEGImages" / f"{index}.jpg", quality=100)
            mask = Image.fromarray(np.full((8, 8), index % 2, dtype=np.uint8), mode="P")
            mask.putpalette([0, 0, 0, 255, 0, 0] + [0] * 762)
            mask.save(base / "SegmentationClass" / f"{index}.png")
        for part, rows in {"train": range(20), "val": range(20, 25), "trainval": range(25)}.items():
            (base / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(map(str, rows)))
        info = prepare("torchvision:VOCSegmentation", tmp_path / "run", root=str(tmp_path))
        assert (info.train, info.val, info.test, info.target_shape) == (16, 5, 4, (8, 8))
        part = open_part(tmp_path / "run", "val")
        np.testing.assert_array_equal(part.labels[:, 0, 0], [0, 1, 0, 1, 0])

    def test_what_cannot_be_read(self, torchvision_datasets: Any, tmp_path: Path) -> None:
        text = fails("torchvision:CIFAR10", tmp_path, root=str(tmp_path / "nowhere"))
        assert "torchvision cannot read CIFAR10: RuntimeError: Dataset not found" in text
        assert "--data.args.download true" in text
        assert "did you mean 'CIFAR10'?" in fails("torchvision:CIFAR11", tmp_path)

    def test_cifar100(self, torchvision_datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "cifar-100-python"
        folder.mkdir()
        generator = np.random.default_rng(0)
        raw = {"train": generator.integers(0, 256, (40, 3072), dtype=np.uint8),
               "test": generator.integers(0, 256, (10, 3072), dtype=np.uint8)}  # fmt: skip
        for part, data in raw.items():
            labels = [i % 4 for i in range(len(data))]
            (folder / part).write_bytes(pickle.dumps({"data": data, "fine_labels": labels, "coarse_labels": labels}))
        (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["w", "x", "y", "z"]}))
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)  # of the full archive
        info = prepare("torchvision:CIFAR100", tmp_path / "run", root=str(tmp_path))
        assert (info.classes, info.input_shape) == (("w", "x", "y", "z"), (3, 32, 32))
        assert (info.train, info.val, info.test) == (32, 8, 10)
        source, _ = open_source(Target(target="torchvision:CIFAR100", args={"root": str(tmp_path)}))
        read = np.concatenate(list(source.images("test", np.arange(10))))
        np.testing.assert_array_equal(read, raw["test"].reshape(10, 3, 32, 32))

    def test_class_folders(self, torchvision_datasets: Any, tmp_path: Path) -> None:
        for kind in ("cat", "dog"):
            (tmp_path / kind).mkdir()
            for index, picture in enumerate(pictures(10)):
                picture.save(tmp_path / kind / f"{index}.png")
        info = prepare("torchvision:ImageFolder", tmp_path / "run", root=str(tmp_path))
        assert (info.classes, info.train + info.val + info.test) == (("cat", "dog"), 20)

    def test_svhn(self, torchvision_datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from scipy.io import savemat

        images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
        for part in ("train", "test"):
            savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": np.arange(20).reshape(-1, 1) % 10 + 1})
        monkeypatch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
        monkeypatch.setattr(torchvision_datasets.SVHN, "_check_integrity", lambda _: True)
        info = prepare("torchvision:SVHN", tmp_path / "run", root=str(tmp_path), val_fraction=0.5)
        assert (info.input_shape, info.test, len(info.classes)) == ((3, 32, 32), 20, 10)
