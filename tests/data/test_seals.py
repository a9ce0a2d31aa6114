"""Every part stays what it was: images and labels that were changed behind the size and time of their files."""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

from se_nas.commands.confirm import confirm
from se_nas.commands.search import search
from se_nas.core.errors import DataError, RunError
from se_nas.core.trial import Target
from se_nas.data.base import PARTS, PartName, Rows
from se_nas.data.sealed import open_test, openings
from se_nas.data.seals import source_checksum
from se_nas.data.store import open_part, open_source, prepare_data
from se_nas.report.view import View

SIZES = {"train": 24, "val": 12, "test": 12}
Change = Callable[[dict[str, np.ndarray]], object]


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for part, n in SIZES.items():
        found[f"x_{part}"] = generator.integers(0, 256, (n, 8, 8)).astype(np.uint8)
        found[f"y_{part}"] = np.arange(n) % 2
    return found


def write(file: Path, change: Change | None = None) -> Path:
    """An archive; a changed one has the size and the times of that which was there."""
    before = file.stat() if file.exists() else None
    content = arrays()
    if change is not None:
        change(content)
    np.savez(file, **content)  # type: ignore[arg-type]
    if before is not None:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return file


def exchanged(name: str, content: dict[str, np.ndarray]) -> None:
    """Labels of the two classes exchanged, or two images."""
    if name.startswith("y_"):
        content[name] = 1 - content[name]
    else:
        content[name][[0, 1]] = content[name][[1, 0]]


def settings(folder: Path, **changes: Any) -> Any:
    return tiny(folder, data=Target(target=f"npz:{folder / 'data.npz'}"), budget=2, **changes)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A search on an archive, with whose file the tests begin."""
    write(tmp_path / "data.npz")
    return search(settings(tmp_path)).folder


class TestSearch:
    @pytest.mark.parametrize("name", [f"{kind}_{part}" for part in PARTS for kind in "xy"])
    def test_does_not_go_on_with_other_images_or_labels(self, run: Path, tmp_path: Path, name: str) -> None:
        write(tmp_path / "data.npz", functools.partial(exchanged, name))
        part = {"train": "training", "val": "validation", "test": "test"}[name[2:]]
        with pytest.raises(RunError, match=f"data: the {part} images or labels have changed\n") as caught:
            search(settings(tmp_path))
        others = {"training", "validation", "test"} - {part}
        assert not any(f"the {other} images" in str(caught.value) for other in others)
        write(tmp_path / "data.npz")
        assert len(search(settings(tmp_path)).trials) == 2  # as soon as the data are as they were

    @pytest.mark.parametrize("array", ["train_images", "val_labels"])
    def test_reads_prepared_arrays_again_that_were_overwritten(
        self, run: Path, tmp_path: Path, array: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = run / "data" / f"{array}.npy"
        whole, before = file.read_bytes(), file.stat()
        np.load(file, mmap_mode="r+")[:] = 0
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.read_bytes() != whole
        search(settings(tmp_path), view=View())
        part = {"train": "training", "val": "validation"}[array.partition("_")[0]]
        said = " ".join("".join(capsys.readouterr()).split())
        assert f"data: the prepared {part} images or labels in" in said
        assert "were damaged, and are read again" in said
        assert file.read_bytes() == whole

    def test_goes_on_with_the_same_data_elsewhere(self, run: Path, tmp_path: Path) -> None:
        """Content counts, not the place: of the test set it is compared when it is opened."""
        (tmp_path / "moved").mkdir()
        np.savez_compressed(tmp_path / "moved" / "x.npz", **arrays())  # type: ignore[arg-type]
        moved = replace(settings(tmp_path), data=Target(target=f"npz:{tmp_path / 'moved' / 'x.npz'}"))
        assert len(search(moved).trials) == 2


class TestConfirm:
    def test_says_a_changed_test_part_before_it_trains(self, run: Path, tmp_path: Path) -> None:
        write(tmp_path / "data.npz", functools.partial(exchanged, "y_test"))
        with pytest.raises(RunError, match="data: the test images or labels have changed"):
            confirm(run, top=1, seeds=1)
        assert not list((run / "weights").glob("confirm-*"))
        assert openings(run) == []

    def test_a_second_opening_is_of_the_same_test_part(self, run: Path, tmp_path: Path) -> None:
        confirm(run, top=1, seeds=1)
        first = openings(run)[0]["checksum"]
        write(tmp_path / "data.npz", functools.partial(exchanged, "x_test"))
        with pytest.raises(RunError, match="data: the test images or labels have changed"):
            confirm(run, top=1, seeds=2)
        write(tmp_path / "data.npz")
        confirm(run, top=1, seeds=2)
        assert [line["checksum"] for line in openings(run)] == [first, first]


class TestOpening:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        prepare_data(Target(target=f"npz:{write(tmp_path / 'data.npz')}"), tmp_path)
        return tmp_path

    def test_first_is_of_what_was_searched(self, folder: Path) -> None:
        write(folder / "data.npz", functools.partial(exchanged, "y_test"))
        with pytest.raises(DataError, match="test set is not what it was when it was searched: images or labels"):
            open_test(folder, purpose="one")
        assert not (folder / "data" / "test_labels.npy").exists()

    def test_overwritten_arrays_are_read_again(self, folder: Path) -> None:
        open_test(folder, purpose="one")
        np.load(folder / "data" / "test_labels.npy", mmap_mode="r+")[:] = 0
        assert open_test(folder, purpose="two") == 2
        np.testing.assert_array_equal(open_part(folder, "test").labels, arrays()["y_test"])

    @pytest.mark.parametrize("log", ["with checksums", "of an older version"])
    def test_other_data_are_refused_though_the_data_were_prepared_anew(self, folder: Path, log: str) -> None:
        open_test(folder, purpose="one")
        if log == "of an older version":
            (folder / "test_openings.jsonl").write_text('{"purpose": "one", "time": "2026-11-01", "images": 12}\n')
        write(folder / "data.npz", functools.partial(exchanged, "y_test"))
        prepare_data(Target(target=f"npz:{folder / 'data.npz'}"), folder)
        for _ in range(2):  # the refusal leaves the evidence
            with pytest.raises(DataError, match=r"test set is not what it was when it was opened before \(2026"):
                open_test(folder, purpose="two")
        assert len(openings(folder)) == 1


class Bare:
    """A source of a user's own, which says nothing of its bytes."""

    classes = ("a", "b")

    def __init__(self) -> None:
        self.read: list[PartName] = []

    def labels(self, part: PartName) -> np.ndarray:
        return arrays()[f"y_{part}"]

    def images(self, part: PartName, indices: np.ndarray) -> Iterator[np.ndarray]:
        self.read.append(part)
        yield arrays()[f"x_{part}"][indices][:, None]

    def fingerprint(self) -> str:
        return "bare"


def test_the_test_part_of_a_source_that_must_decode_it_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, module = Bare(), types.ModuleType("bare_source")
    module.make = lambda: source  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bare_source", module)
    info = prepare_data(Target(target="bare_source:make"), tmp_path)
    assert set(source.read) == {"train", "val"} == set(info.sources)
    assert prepare_data(Target(target="bare_source:make"), tmp_path) == info
    open_test(tmp_path, purpose="one")
    assert source.read[-1] == "test"


def pictures(folder: Path) -> Path:
    generator = np.random.default_rng(1)
    for part in PARTS:
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for index in range(3):
                pixels = generator.integers(0, 256, (8, 8, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{index}.png", compress_level=0)
    return folder


def flipped(file: Path) -> None:
    """Another pixel in a file of the same size and time."""
    before = file.stat()
    Image.fromarray(np.asarray(Image.open(file))[::-1].copy()).save(file, compress_level=0)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size


@pytest.mark.parametrize("part", PARTS)
def test_files_of_a_folder_are_read_whole(tmp_path: Path, part: PartName) -> None:
    target = Target(target=f"folder:{pictures(tmp_path / 'images')}")
    first = prepare_data(target, tmp_path / "run")
    assert prepare_data(target, tmp_path / "run") == first
    flipped(tmp_path / "images" / part / "dog" / "1.png")
    second = prepare_data(target, tmp_path / "run")
    assert {name for name in PARTS if first.sources[name] != second.sources[name]} == {part}
    assert {name for name in first.prepared if first.prepared[name] != second.prepared[name]} == {part} - {"test"}


@pytest.mark.parametrize("kind", ["torchvision", "hf"])
def test_libraries_say_their_bytes_without_decoding(tmp_path: Path, kind: str) -> None:
    library = pytest.importorskip("torchvision" if kind == "torchvision" else "datasets")
    folder = pictures(tmp_path / "images")
    if kind == "torchvision":
        target = Target(target="torchvision:ImageFolder", args={"root": str(folder / "train")})
    else:
        library.disable_progress_bars()
        library.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache")).save_to_disk(
            str(tmp_path / "saved")
        )
        target = Target(target=f"hf:{tmp_path / 'saved'}")
    source, _ = open_source(target)
    rows: Rows = ("train", np.array([1, 4]), np.array([0, 1]))
    files = [folder / "train" / name for name in ("cat/1.png", "dog/1.png")]
    assert [bytes(raw) for raw in source.raw(*rows[:2])] == [file.read_bytes() for file in files]
    assert source_checksum(source, rows) != source_checksum(source, ("train", np.array([1, 4]), np.array([1, 0])))
