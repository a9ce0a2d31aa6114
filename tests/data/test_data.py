"""Data sets: what is read, how it is split, that the test set stays closed, and bad input answered clearly."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import tiny, write_npz
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from se_nas.commands.search import search
from se_nas.core.errors import DataError, PluginError
from se_nas.core.trial import Target
from se_nas.data.array_facts import mean_and_std
from se_nas.data.arrays import Arrays
from se_nas.data.base import PARTS, DataInfo
from se_nas.data.sealed import open_test, openings
from se_nas.data.store import cut_note, open_part, prepare_data, read_info
from se_nas.report.view import View


def prepare(target: str, folder: Path, **args: Any) -> DataInfo:
    return prepare_data(Target(target=target, args=args), folder)


def fails(target: str, folder: Path, **args: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepare(target, folder, **args)
    return str(caught.value)


def picture(file: Path, value: int = 100, *, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    """An image whose left half is dark and whose right half has a value."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[:, size[0] // 2 :] = value
    Image.fromarray(pixels).convert(mode).save(file)


def test_the_test_part_is_opened_once_for_each_purpose_and_only_as_it_was_split(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "data.npz", n=90)
    prepare(f"npz:{file}", tmp_path / "run")
    counts = [open_test(tmp_path / "run", purpose=purpose) for purpose in ("one", "one", "two", "one", "three")]
    assert counts == [1, 1, 2, 2, 3]
    assert [opening["purpose"] for opening in openings(tmp_path / "run")] == ["one", "two", "three"]
    write_npz(file, n=120)
    with pytest.raises(DataError, match="split differently than when it was searched"):
        open_test(tmp_path / "run", purpose="four")


def test_each_part_gets_its_share_of_every_class_to_the_nearest_image(tmp_path: Path) -> None:
    """Of 19 images of each of three classes a tenth is 2, and a quarter 5."""
    file = write_npz(tmp_path / "data.npz", n=57)
    prepare(f"npz:{file}", tmp_path, test_fraction=0.1, val_fraction=0.25)
    open_test(tmp_path, purpose="a test")
    counts = {part: np.bincount(open_part(tmp_path, part).labels).tolist() for part in ("test", "val", "train")}
    assert counts == {"test": [2] * 3, "val": [5] * 3, "train": [12] * 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with ten images each below train/."""
    root = tmp_path / "images"
    for label, name in enumerate(("cat", "dog")):
        for i in range(10):
            picture(root / "train" / name / f"{i}.png", 100 + 100 * label)
    return root


class TestDigits:
    def test_all_images_once(self, tmp_path: Path) -> None:
        info = prepare("digits", tmp_path)
        assert (info.train + info.val + info.test, info.input_shape) == (1797, (1, 8, 8))
        assert info.classes == tuple("0123456789")
        train = open_part(tmp_path, "train")
        assert train.images.dtype == np.uint8
        assert train.labels.dtype == np.int64
        assert train.images.max() == 255
        np.testing.assert_allclose(info.mean, train.images.mean((0, 2, 3)))
        np.testing.assert_allclose(info.std, train.images.std((0, 2, 3)))

    def test_parts_are_disjoint_and_stratified(self, tmp_path: Path) -> None:
        info = prepare("digits", tmp_path)
        pixels, labels = load_digits(return_X_y=True)
        places: dict[bytes, list[int]] = {}
        for i, image in enumerate((pixels.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)):
            places.setdefault(image.tobytes(), []).append(i)
        used = []
        for part in ("train", "val"):
            data = open_part(tmp_path, part)
            shares = np.bincount(data.labels) / np.bincount(labels)
            fraction = len(data.labels) / 1797
            assert np.abs(shares - fraction).max() < 0.01
            for image, label in zip(data.images, data.labels, strict=True):
                candidates = places[image.tobytes()]
                assert labels[candidates[0]] == label
                used.append(candidates.pop(0))
        assert len(set(used)) == info.train + info.val
        assert abs(info.test / 1797 - 0.2) < 0.01
        assert abs(info.val / 1797 - 0.2) < 0.01

    def test_the_split_depends_on_its_seed_alone(self, tmp_path: Path) -> None:
        infos = [prepare("digits", tmp_path / str(i), split_seed=seed) for i, seed in enumerate((0, 0, 1))]
        assert infos[0].split == infos[1].split != infos[2].split
        assert infos[0].checksum == infos[1].checksum != infos[2].checksum

    def test_fractions(self, tmp_path: Path) -> None:
        info = prepare("digits", tmp_path, val_fraction=0.1, test_fraction=0.5)
        assert abs(info.val / 1797 - 0.1) < 0.01
        assert abs(info.test / 1797 - 0.5) < 0.01

    @pytest.mark.parametrize("value", [0, 1, -0.1, "half"])
    def test_wrong_fractions_are_named(self, tmp_path: Path, value: object) -> None:
        assert fails("digits", tmp_path, val_fraction=value) == (
            f"val_fraction is {value!r}\n  allowed: a number between 0 and 1"
        )

    def test_fractions_that_leave_nothing_to_train(self, tmp_path: Path) -> None:
        text = fails("digits", tmp_path, val_fraction=0.6, test_fraction=0.6)
        assert "fraction" in text

    def test_wrong_arguments_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(PluginError, match="unexpected keyword argument 'size'"):
            prepare("digits", tmp_path, size=3)


class TestCache:
    def test_is_used_again_and_renewed_when_the_data_change(self, tmp_path: Path, folder: Path) -> None:
        run = tmp_path / "run"
        first = prepare(f"folder:{folder}", run)
        stamp = (run / "data" / "train_images.npy").stat().st_mtime_ns
        assert prepare(f"folder:{folder}", run) == first == read_info(run)
        assert (run / "data" / "train_images.npy").stat().st_mtime_ns == stamp
        picture(folder / "train" / "cat" / "new.png", 7)
        second = prepare(f"folder:{folder}", run)
        assert second.train + second.val + second.test == 21
        assert second.checksum != first.checksum

    def test_checksum_is_of_the_content(self, tmp_path: Path, folder: Path) -> None:
        moved = tmp_path / "elsewhere"
        shutil.copytree(folder, moved)
        first, second = prepare(f"folder:{folder}", tmp_path / "1"), prepare(f"folder:{moved}", tmp_path / "2")
        assert first.checksum == second.checksum
        picture(moved / "train" / "cat" / "0.png", 99)
        picture(moved / "train" / "cat" / "1.png", 99)
        picture(moved / "train" / "cat" / "2.png", 99)
        picture(moved / "train" / "cat" / "3.png", 99)
        picture(moved / "train" / "cat" / "4.png", 99)
        assert prepare(f"folder:{moved}", tmp_path / "2").checksum != first.checksum

    def test_an_unfinished_cache_is_made_again(self, tmp_path: Path, folder: Path) -> None:
        run = tmp_path / "run"
        first = prepare(f"folder:{folder}", run)
        (run / "data" / "data.json").unlink()
        (run / "data" / "train_images.npy").write_bytes(b"half")
        assert prepare(f"folder:{folder}", run) == first
        assert len(open_part(run, "train").images) == first.train

    def test_holds_no_test_part(self, tmp_path: Path) -> None:
        prepare("digits", tmp_path)
        assert sorted(file.name for file in (tmp_path / "data").iterdir()) == [
            "data.json", "train_images.npy", "train_labels.npy", "val_images.npy", "val_labels.npy",
        ]  # fmt: skip


class TestFolder:
    def test_formats(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        for i, ending in enumerate(("png", "jpg", "webp", "bmp", "gif", "PNG", "tiff")):
            for label, name in enumerate(("cat", "dog")):
                picture(root / "train" / name / "deep" / f"{i}.{ending}", 60 + 120 * label)
                picture(root / "val" / name / f"{i}.{ending}", 60 + 120 * label)
                picture(root / "test" / name / f"{i}.{ending}", 60 + 120 * label)
        (root / "train" / "cat" / "notes.txt").write_text("no image")
        (root / "train" / ".hidden").mkdir()
        info = prepare(f"folder:{root}", tmp_path / "run")
        assert (info.train, info.val, info.test) == (14, 14, 14)
        assert info.classes == ("cat", "dog")
        assert info.input_shape == (3, 8, 8)
        part = open_part(tmp_path / "run", "val")
        bright = part.images[:, :, :, 6].mean((1, 2))
        np.testing.assert_allclose(bright, np.where(part.labels == 0, 60, 180), atol=12)
        assert part.images[:, :, :, 1].max() < 20

    @pytest.mark.parametrize("mode", ["L", "1", "LA"])
    def test_grey_images_stay_grey(self, tmp_path: Path, mode: str) -> None:
        root = tmp_path / "images"
        for name in ("cat", "dog"):
            for i in range(6):
                picture(root / "train" / name / f"{i}.png", 255 if i < 5 else 0, mode=mode)
        info = prepare(f"folder:{root}", tmp_path / "run")
        assert info.input_shape == (1, 8, 8)
        assert open_part(tmp_path / "run", "train").images[0, 0, :, 4:].min() == 255

    def test_palette_and_transparency_become_colours(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        for name, mode in (("cat", "P"), ("dog", "RGBA")):
            for i in range(6):
                picture(root / "train" / name / f"{i}.png", 200 + i % 2, mode=mode)
        assert prepare(f"folder:{root}", tmp_path / "run").input_shape == (3, 8, 8)
        bright = open_part(tmp_path / "run", "train").images[:, :, :, 6]
        assert (np.abs(bright.astype(int) - 200) < 10).all()

    def test_height_and_width_are_not_mixed_up(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        for name in ("cat", "dog"):
            for i in range(6):
                picture(root / "train" / name / f"{i}.png", 10 * i, size=(12, 5))
        assert prepare(f"folder:{root}", tmp_path / "run").input_shape == (3, 5, 12)

    def test_resized(self, tmp_path: Path, folder: Path) -> None:
        picture(folder / "train" / "cat" / "large.png", size=(50, 20))
        assert prepare(f"folder:{folder}", tmp_path / "run", size=6).input_shape == (3, 6, 6)

    def test_the_test_part_is_never_decoded(self, tmp_path: Path, folder: Path) -> None:
        for name in ("cat", "dog"):
            (folder / "test" / name).mkdir(parents=True)
            for i in range(3):
                file = folder / "test" / name / f"{i}.png"
                picture(file)
                whole = file.read_bytes()
                file.write_bytes(whole[: whole.index(b"IDAT") + 6])  # its header is whole, its pixels would raise
        result = search(tiny(tmp_path, data=Target(target=f"folder:{folder}"), budget=2))
        assert list(result.trials["state"]) == ["complete", "complete"]
        assert read_info(result.folder).test == 6
        assert not list((result.folder / "data").glob("test*"))


def _empty(root: Path) -> None:
    shutil.rmtree(root / "train")


def _no_train(root: Path) -> None:
    (root / "train").rename(root / "val")
    shutil.copytree(root / "val", root / "test")


def _no_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def _one_class(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")


def _empty_class(root: Path) -> None:
    (root / "train" / "bird").mkdir()


def _broken(root: Path) -> None:
    file = root / "train" / "cat" / "3.png"
    file.write_bytes(file.read_bytes()[:45])


def _no_image(root: Path) -> None:
    (root / "train" / "cat" / "0.png").write_text("no image")


def _sizes(root: Path) -> None:
    picture(root / "train" / "cat" / "4.png", size=(9, 7))


def _test_sizes(root: Path) -> None:
    """It would be found only when the test set is opened, after all trainings."""
    picture(root / "test" / "dog" / "4.png", size=(9, 7))


def _other_class(root: Path) -> None:
    picture(root / "val" / "cats" / "0.png")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_empty, ["has no class folders", "one folder for each class: images/cat, images/dog"]),
        (_no_train, ["has val and test, but no folder train", "in <class>/ alone, or in train/<class>/"]),
        (_no_classes, ["train' has no class folders", "train/cat, train/dog"]),
        (_one_class, ["has only the class 'cat'", "at least two classes"]),
        (_empty_class, ["the class folder", "bird' has no images", "files of AVIF, BMP"]),
        (_broken, ["the image", "3.png' is broken", "remove or repair it"]),
        (_no_image, ["the image", "0.png' is broken", "remove or repair it"]),
        (_sizes, ["images differ in size", "8 x 8 pixels", "4.png' has 9 x 7 pixels", "--data.args.size N"]),
        (_test_sizes, ["images differ in size", "test/dog/4.png' has 9 x 7 pixels", "--data.args.size N"]),
        (_other_class, ["cats' is a class that train does not have", "did you mean 'cat'?"]),
    ],
)
def test_folders_that_cannot_be_used(
    tmp_path: Path, folder: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    spoil(folder)
    # All images are in train and val, so that each is decoded.
    for name in ("cat", "dog"):
        if (folder / "train" / name).is_dir() and spoil is not _other_class:
            picture(folder / "test" / name / "0.png")
    text = fails(f"folder:{folder}", tmp_path / "run")
    for word in words:
        assert word in text


class TestClassFoldersAlone:
    """Class folders without train, val and test: all parts are split off from their images."""

    def test_are_split_as_the_same_below_train(self, tmp_path: Path, folder: Path) -> None:
        flat = tmp_path / "flat"
        shutil.copytree(folder / "train", flat)
        found, same = prepare(f"folder:{flat}", tmp_path / "1"), prepare(f"folder:{folder}", tmp_path / "2")
        assert (found.train, found.val, found.test) == (12, 4, 4)
        assert (found.split, found.checksum, found.cut) == (same.split, same.checksum, ("val", "test"))
        assert cut_note(found) == (
            "data: se-nas set apart 20% as val and 20% as test (split_seed 0): 12 images to train on, 4 val, 4 test"
        )

    def test_only_what_was_split_off_is_told(self, tmp_path: Path, folder: Path) -> None:
        shutil.copytree(folder / "train", folder / "test")
        found = prepare(f"folder:{folder}", tmp_path / "run", val_fraction=0.3, split_seed=5)
        assert cut_note(found) == (
            "data: se-nas set apart 30% as val (split_seed 5): 14 images to train on, 6 val, 20 test"
        )
        shutil.copytree(folder / "train", folder / "val")
        assert cut_note(prepare(f"folder:{folder}", tmp_path / "other")) is None

    def test_a_search_tells_it(self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = tiny(tmp_path, data=Target(target=f"folder:{folder / 'train'}"), budget=1)
        search(config, view=View())
        said = capsys.readouterr()
        assert "data: se-nas set apart 20% as val and 20% as test (split_seed 0)" in said.out + said.err

    def test_a_folder_without_its_name_is_answered_with_it(self, tmp_path: Path, folder: Path) -> None:
        with pytest.raises(PluginError, match="unknown data") as caught:
            prepare(str(folder), tmp_path)
        assert caught.value.hint == f"did you mean 'folder:{folder}'?"
        np.savez(tmp_path / "some.npz", a=np.zeros(1))
        with pytest.raises(PluginError, match="unknown data") as caught:
            prepare(str(tmp_path / "some.npz"), tmp_path)
        assert caught.value.hint == f"did you mean 'npz:{tmp_path / 'some.npz'}'?"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert fails("folder:/no/such/folder", tmp_path) == "there is no folder '/no/such/folder'"
    with pytest.raises(PluginError, match="needs something after the colon"):
        prepare("folder:", tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestNpz:
    @pytest.fixture(autouse=True)
    def _collected(self) -> Iterator[None]:
        """An archive that could not be used is closed by the garbage collector, with a warning; have it do so here."""
        yield
        gc.collect()

    @pytest.mark.parametrize(
        ("names", "images"),
        [
            (("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"), (8, 8)),
            (("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"), (8, 8, 3)),
        ],
    )
    def test_both_naming_schemes(self, tmp_path: Path, names: tuple[str, ...], images: tuple[int, ...]) -> None:
        arrays: dict[str, np.ndarray] = {}
        for n, (x, y) in zip((20, 10, 6), zip(names[::2], names[1::2], strict=True), strict=True):
            arrays[x] = np.full((n, *images), n, dtype=np.uint8)
            arrays[x][0, 0] += n == 20  # equal images to train on are refused
            arrays[y] = (np.arange(n) % 2)[:, None]  # MedMNIST's labels are columns
        np.savez(tmp_path / "data.npz", **arrays)
        info = prepare(f"npz:{tmp_path / 'data.npz'}", tmp_path)
        assert (info.train, info.val, info.test) == (20, 10, 6)
        assert info.input_shape == ((1, 8, 8) if len(images) == 2 else (3, 8, 8))
        assert set(open_part(tmp_path, "val").images.ravel()) == {10}

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((8, 9), (1, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9)), ((1, 8, 9), (1, 8, 9))],
    )
    def test_layouts(self, tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        file = write_npz(tmp_path / "data.npz", shape=shape)
        assert prepare(f"npz:{file}", tmp_path).input_shape == expected

    def test_floats_stay_floats(self, tmp_path: Path) -> None:
        labels = np.arange(40) % 2
        np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).random((40, 8, 8)), y=labels)
        info = prepare(f"npz:{tmp_path / 'data.npz'}", tmp_path)
        assert open_part(tmp_path, "train").images.dtype == np.float32
        assert 0.4 < info.mean[0] < 0.6

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"a": np.zeros(3)}, ["has the arrays a", "x_train and y_train", "train_images and train_labels"]),
            (
                {"x": np.zeros((20, 64)), "y": np.arange(20) % 2},
                ["x has shape (20, 64) and type float64", "(n, height, width, channels)"],
            ),
            (
                {"x": np.zeros((20, 8, 8)), "y": np.arange(19) % 2},
                ["x has 20 images, y has 19 labels"],
            ),
            (
                {"x": np.zeros((20, 8, 8)), "y": np.eye(2, dtype=complex)[np.arange(20) % 2]},
                ["y has shape (20, 2) and type complex128", "integers from 0 up, shape (n,) or (n, 1)"],
            ),
            ({"x": np.zeros((20, 8, 8)), "y": np.arange(20) % 2 - 1}, ["y has shape (20,)", "integers from 0 up"]),
            ({"x": np.zeros((20, 8, 8)), "y": np.zeros(20, int)}, ["has only the class '0'", "at least two classes"]),
            ({"x": np.zeros((0, 8, 8)), "y": np.zeros(0, int)}, ["the data set has no training images"]),
            (
                {"x": np.full((20, 8, 8), np.nan), "y": np.arange(20) % 2},
                ["the training images contain values that are not finite"],
            ),
            (
                {"x": np.array([None] * 20, dtype=object), "y": np.arange(20) % 2},
                ["x cannot be read", "allow_pickle"],
            ),
            (
                {"x": np.zeros((20, 8, 8)), "y": np.array(["a", "b"] * 10, dtype=object)},
                ["y cannot be read", "allow_pickle"],
            ),
            (
                {"x": np.zeros((20, 8, 8)), "y": np.arange(20) % 2, "x_val": np.zeros((4, 9, 9)), "y_val": [0, 1] * 2},
                ["validation images have shape (1, 9, 9), training images (1, 8, 8)"],
            ),
            (
                {"x": np.zeros((20, 8, 8)), "y": np.arange(20) % 2, "x_val": np.zeros((4, 8, 8)), "y_val": [0, 7] * 2},
                ["the val set has labels outside 0 to 1"],
            ),
        ],
        ids=[
            "names", "flat images", "lengths", "complex", "negative", "one class", "no images", "not finite",
            "pickled images", "pickled labels", "other size", "other label",
        ],
    )  # fmt: skip
    def test_archives_that_cannot_be_used(self, tmp_path: Path, arrays: dict[str, Any], words: list[str]) -> None:
        np.savez(tmp_path / "data.npz", **arrays)
        text = fails(f"npz:{tmp_path / 'data.npz'}", tmp_path)
        for word in words:
            assert word in text

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"no archive",
            b"PK\x03\x04half",
        ],
        ids=["empty", "text", "torn"],
    )
    def test_files_that_are_no_archives(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "data.npz"
        file.write_bytes(content)
        text = fails(f"npz:{file}", tmp_path)
        assert "as a NumPy archive (.npz)" in text
        assert "allow_pickle" not in text

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        text = fails(f"npz:{tmp_path / 'nowhere.npz'}", tmp_path)
        assert "nowhere.npz" in text
        assert "No such file" in text


class TestArrays:
    def test_images_and_targets_must_be_as_many(self) -> None:
        source = Arrays({"train": (np.zeros((4, 1, 2, 2)), np.arange(3))}, fingerprint="")
        assert source.classes == ("0", "1", "2")
        with pytest.raises(DataError, match="the train set has 4 images and 3 targets"):
            next(source.images("train", np.arange(3)))

    def test_images_without_pixels(self) -> None:
        with pytest.raises(DataError, match=r"the training images have no pixels: their shape is \(4, 0, 8\)"):
            mean_and_std(np.zeros((4, 0, 8)))

    def test_wrong_targets(self) -> None:
        with pytest.raises(DataError, match=r"the array of val targets has shape \(2,\) and type int64"):
            Arrays({part: (np.zeros((2, 1, 2, 2)), np.arange(2) - (part == "val")) for part in PARTS}, fingerprint="")

    def test_other_numbers_than_bytes_become_float32(self) -> None:
        source = Arrays({"train": (lambda: np.ones((4, 1, 2, 2), dtype=int), np.arange(4))}, fingerprint="")
        (images,) = source.images("train", np.array([2, 0]))
        assert (images.shape, images.dtype) == ((2, 1, 2, 2), np.float32)


class Blobs(pl.LightningDataModule):
    """Random images of two classes whose test set must not be opened."""

    num_classes = 2

    def __init__(self, n: int = 64) -> None:
        super().__init__()
        self.n = n

    def _loader(self) -> DataLoader[Any]:
        labels = torch.arange(self.n) % 2
        images = torch.randn(self.n, 3, 8, 8) + labels.reshape(-1, 1, 1, 1) * 3
        return DataLoader(TensorDataset(images, labels), batch_size=16)

    def train_dataloader(self) -> Any:
        return self._loader()

    def val_dataloader(self) -> Any:
        return self._loader()

    def test_dataloader(self) -> Any:
        raise AssertionError("the test set was opened")


class Nameless(Blobs):
    num_classes = None


class Unusable(Blobs):
    def val_dataloader(self) -> Any:
        raise RuntimeError("no disk today")


class Dictionaries(Blobs):
    def val_dataloader(self) -> Any:
        return iter([("a", "b")])


HERE = str(Path(__file__))


class TestDataModule:
    def test_searches_and_leaves_the_test_part_closed(self, tmp_path: Path) -> None:
        target = Target(target=f"{HERE}:Blobs", args={"n": 48})
        result = search(tiny(tmp_path, data=target, budget=2))
        assert list(result.trials["state"]) == ["complete", "complete"]

    def test_what_is_known_of_it(self, tmp_path: Path) -> None:
        info = prepare(f"{HERE}:Blobs", tmp_path)
        assert (info.kind, info.input_shape, info.classes) == ("module", (3, 8, 8), ("0", "1"))

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            (
                "Unusable",
                [
                    "gives no validation batch: RuntimeError: no disk today",
                    "must yield (images, labels), or dictionaries",
                ],
            ),
            ("Dictionaries", ["yields str and str", "a tensor (batch, channels, *size), and targets"]),
        ],
    )
    def test_modules_that_cannot_be_used(self, tmp_path: Path, name: str, words: list[str]) -> None:
        text = fails(f"{HERE}:{name}", tmp_path)
        for word in words:
            assert word in text


@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_damaged_cache_is_made_again(tmp_path: Path, damage: str) -> None:
    info = prepare("digits", tmp_path)
    file = tmp_path / "data" / "train_images.npy"
    whole = file.read_bytes()
    file.unlink() if damage == "gone" else file.write_bytes(whole[: len(whole) // 2])
    note = f"data: the prepared training images or labels in '{tmp_path / 'data'}' were damaged, and are read again"
    assert prepare("digits", tmp_path) == replace(info, notes=(note,))
    assert file.read_bytes() == whole
    assert prepare("digits", tmp_path) == info
