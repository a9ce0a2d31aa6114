"""Images and labels are never changed silently: each is read as it was meant, or refused, and the user is told."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny, write_npz
from PIL import EpsImagePlugin, Image

from se_nas.commands.search import search
from se_nas.core.errors import DataError
from se_nas.core.files import path_text
from se_nas.core.trial import Target
from se_nas.data.base import DataInfo, Part
from se_nas.data.decoding import reading
from se_nas.data.pixels import Kind, Pixels
from se_nas.data.sealed import open_test
from se_nas.data.store import open_part, prepare_data
from se_nas.report.view import View


def prepared(target: str, folder: Path, **args: Any) -> tuple[DataInfo, Part]:
    info = prepare_data(Target(target=target, args=args), folder / "run")
    return info, open_part(folder / "run", "train")


def refused(target: str, folder: Path, **args: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(target, folder, **args)
    return str(caught.value)


def folder_of(
    root: Path, save: Callable[[int, Path], None], *, ending: str = "png", parts: str = "train val test"
) -> str:
    """Two classes of four files each in each part, from what saves the i-th image."""
    for offset, part in enumerate(parts.split()):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for i in range(4):
                save(4 * label + i + 8 * offset, root / part / name / f"{i}.{ending}")
    return f"folder:{root}"


def ramp(i: int, largest: int) -> np.ndarray:
    """An image (5, 6) of values from 0 to the largest."""
    values = np.linspace(0, largest, 30).reshape(5, 6)
    values[0, 0] = i
    return values


def twelve_bits(values: np.ndarray) -> bytes:
    """A TIFF file of grey values of 12 bits, as the TIFF standard has them: two values in three bytes."""
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for row in values.astype(int) for a, b in row.reshape(-1, 2)
    )
    height, width = values.shape
    tags = [(256, width), (257, height), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, height),
            (279, len(packed))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    return head.ljust(122, b"\0") + packed


class TestDepth:
    @pytest.mark.parametrize(("ending", "largest"), [("png", 65535), ("tiff", 65535), ("pgm", 65535), ("tif", 4095)])
    def test_more_than_8_bits_are_scaled_by_their_depth(self, tmp_path: Path, ending: str, largest: int) -> None:
        def save(i: int, file: Path) -> None:
            values = ramp(i, largest).astype(np.uint16)
            if ending == "tif":
                file.write_bytes(twelve_bits(values))
            elif ending == "pgm":
                file.write_bytes(b"P5 6 5 65535\n" + values.astype(">u2").tobytes())
            else:
                Image.fromarray(values).save(file)

        info, train = prepared(folder_of(tmp_path / "images", save, ending=ending), tmp_path)
        assert train.images.dtype == np.float32
        expected = [[ramp(i, largest).astype(np.uint16) / largest] for i in range(8)]
        if ending == "pgm":
            assert info.input_shape == (1, 5, 6)
        np.testing.assert_allclose(train.images[: len(expected)], expected[: len(train.images)], atol=1e-6)
        assert any("of more than 8 bits: scaled by their depth" in note for note in info.notes)

    def test_floats_are_kept(self, tmp_path: Path) -> None:
        target = folder_of(
            tmp_path / "images", lambda i, f: Image.fromarray(np.float32(ramp(i, 7) - 3.5)).save(f), ending="tiff"
        )
        info, train = prepared(target, tmp_path)
        np.testing.assert_array_equal(train.images[3, 0], np.float32(ramp(3, 7) - 3.5))
        assert any("kept as they are" in note for note in info.notes)

    def test_bytes_among_16_bits_come_on_their_scale(self, tmp_path: Path) -> None:
        def save(i: int, file: Path) -> None:
            deep = i % 2 == 0
            Image.fromarray(ramp(0, 65535 if deep else 255).astype(np.uint16 if deep else np.uint8)).save(file)

        _, train = prepared(folder_of(tmp_path / "images", save), tmp_path)
        np.testing.assert_allclose(train.images[0], train.images[1], atol=1 / 255)

    def test_floats_among_bytes_are_refused(self, tmp_path: Path) -> None:
        def save(i: int, file: Path) -> None:
            Image.fromarray(ramp(i, 200).astype(np.float32 if i % 2 else np.uint8)).save(file)

        assert "save all images in one way" in refused(folder_of(tmp_path / "i", save, ending="tiff"), tmp_path)

    def test_a_deep_image_that_no_sample_showed_is_scaled_to_8_bits(self) -> None:
        pixels = Pixels([Kind(True, 8)])
        found = pixels.array(Image.fromarray(ramp(0, 65535).astype(np.uint16)), "a")
        np.testing.assert_allclose(found[0], ramp(0, 255), atol=0.51)
        assert pixels.said() == ["1 image of more than 8 bits among others of 8: scaled to 8 bits"]

    def test_colour_that_no_sample_showed_is_told(self) -> None:
        pixels = Pixels([Kind(True, 8)])
        assert pixels.array(Image.new("RGB", (4, 4), "red"), "a").shape == (1, 4, 4)
        assert pixels.said() == ["1 image in colour: made grey, as the first ones are"]

    def test_resizing_stays_in_the_range(self, tmp_path: Path) -> None:
        target = folder_of(tmp_path / "i", lambda i, f: Image.fromarray(ramp(i, 65535).astype(np.uint16)).save(f))
        _, train = prepared(target, tmp_path, size=11)
        assert train.images.shape[1:] == (1, 11, 11)
        assert (train.images.min(), train.images.max()) == (0, 1)


class TestTransparency:
    """A black drawing on nothing: a stroke whose place differs from image to image."""

    @staticmethod
    def save(mode: str) -> Callable[[int, Path], None]:
        def save(i: int, file: Path) -> None:
            pixels = np.zeros((8, 30, 4), dtype=np.uint8)
            pixels[:, i, 3] = 255
            image = Image.fromarray(pixels).convert("RGBA" if mode == "P" else mode)
            if mode == "P":
                image = image.quantize(4)
            image.save(file)

        return save

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_drawings_are_laid_on_white(self, tmp_path: Path, mode: str) -> None:
        info, train = prepared(folder_of(tmp_path / "images", self.save(mode)), tmp_path)
        expected = np.full((8, 30), 255)
        expected[:, 2] = 0
        for channel in train.images[2]:
            np.testing.assert_array_equal(channel, expected)
        assert "data: 16 images with transparency: laid on white (--data.args.background)" in info.notes

    def test_the_background_can_be_chosen(self, tmp_path: Path) -> None:
        target = folder_of(tmp_path / "images", self.save("RGBA"))
        _, train = prepared(target, tmp_path, background="#102030")
        assert train.images[0, :, 0, 5].tolist() == [16, 32, 48]
        assert "background is 'no colour'" in refused(target, tmp_path, background="no colour")
        assert "all 8 training images are equal: each value is 0" in refused(target, tmp_path, background="black")

    def test_what_is_opaque_stays_as_it_is(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
        noise[..., 3] = 255
        pixels = Pixels([Kind(False, 8)])
        np.testing.assert_array_equal(pixels.array(Image.fromarray(noise), "a"), noise[..., :3].transpose(2, 0, 1))
        assert pixels.said() == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_camera_images_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    """The eight orientations of EXIF, from what each says of row 0 and column 0."""
    upright = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "PNG", exif=exif)
    pixels = Pixels([Kind(True, 8)])
    np.testing.assert_array_equal(pixels.array(Image.open(file), "a")[0], upright)
    assert pixels.said() == (["1 image turned upright, as the camera noted (EXIF)"] if orientation > 1 else [])


def grey(i: int, file: Path) -> None:
    Image.fromarray(ramp(i, 200).astype(np.uint8)).save(file)


class TestListing:
    def test_hidden_and_system_files_are_left_out_and_counted(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        target = folder_of(root, grey)
        for name in (".ipynb_checkpoints/0-checkpoint.png", "._0.png", "__MACOSX/0.png", "Thumbs.db", ".hidden.png"):
            file = root / "train" / "cat" / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"would be broken")
        (root / "__MACOSX" / "train").mkdir(parents=True)
        (root / "train" / "__MACOSX").mkdir()
        (root / "train" / "cat" / "drawing.eps").write_bytes(b"%!PS")
        os.mkfifo(root / "train" / "cat" / "pipe.png")
        (root / "train" / "cat" / "zero.png").symlink_to("/dev/zero")
        info, _ = prepared(target, tmp_path)
        assert (info.classes, info.val + info.train + info.test) == (("cat", "dog"), 24)
        assert info.notes[0] == (
            "data: left out: 7 hidden or system file(s) or folder(s), 2 link(s) to folders or to nothing, device(s) or "
            "pipe(s), 1 file(s) of type .eps"
        )

    def test_identical_images_in_two_parts_of_an_archive_are_told(self, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
        labels = np.arange(40) % 2
        test = np.concatenate([images[30:], images[3:4], images[7:8], images[25:26]])
        np.savez(
            tmp_path / "a.npz", x_train=images[:20], y_train=labels[:20], x_val=images[20:30], y_val=labels[20:30],
            x_test=test, y_test=np.arange(13) % 2,
        )  # fmt: skip
        info = prepare_data(Target(target=f"npz:{tmp_path}/a.npz"), tmp_path / "run")
        assert info.notes == (
            "data: identical images in two parts: 2 in train and test, 1 in val and test, such as x_train[3] and "
            "x_test[10]; scores on them are too good",
        )
        np.savez(tmp_path / "b.npz", x=np.concatenate([images, images]), y=np.concatenate([labels, labels]))
        (note,) = prepare_data(Target(target=f"npz:{tmp_path}/b.npz"), tmp_path / "b").notes
        assert re.fullmatch(r"data: identical images in two parts: .*, such as x\[\d+\] and x\[\d+\]; .*", note)
        np.savez(tmp_path / "c.npz", x=images, y=labels)
        assert prepare_data(Target(target=f"npz:{tmp_path}/c.npz"), tmp_path / "c").notes == ()

    def test_identical_files_in_two_parts_are_told(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        target = folder_of(root, grey, parts="train val test")
        for part, name in (("val", "cat/0.png"), ("test", "dog/1.png"), ("test", "dog/2.png")):
            (root / part / name).write_bytes((root / "train" / "cat" / "3.png").read_bytes())
        info, _ = prepared(target, tmp_path)
        assert info.notes == (
            "data: identical files in two parts: 1 in train and val and test, such as train/cat/3.png and "
            "val/cat/0.png and test/dog/1.png; scores on them are too good",
        )

    def test_copies_in_class_folders_alone_that_the_split_takes_apart(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            (tmp_path / "images" / name).mkdir(parents=True)
            for i in range(10):
                grey(i % 2 + 20 * (name == "dog"), tmp_path / "images" / name / f"{i}.png")
        info, _ = prepared(f"folder:{tmp_path / 'images'}", tmp_path)
        (note,) = info.notes
        assert note.startswith("data: identical files in two parts: ")

    @pytest.mark.parametrize("name", ["valid", "validation", "Val", "dev", "VALIDATION"])
    def test_names_of_the_validation_part(self, tmp_path: Path, name: str) -> None:
        info, _ = prepared(folder_of(tmp_path / "images", grey, parts=f"Train {name} testing"), tmp_path)
        assert (info.train, info.val, info.test, info.cut) == (8, 8, 8, ())

    def test_classes_may_be_called_like_parts(self, tmp_path: Path) -> None:
        for name in ("valid", "invalid"):
            (tmp_path / "images" / name).mkdir(parents=True)
            for i in range(6):
                grey(i, tmp_path / "images" / name / f"{i}.png")
        assert prepared(f"folder:{tmp_path / 'images'}", tmp_path)[0].classes == ("invalid", "valid")

    def test_parts_that_cannot_be_told_apart(self, tmp_path: Path) -> None:
        target = folder_of(tmp_path / "a", grey, parts="train val dev")
        assert "has dev and val: both would be the val set" in refused(target, tmp_path)
        target = folder_of(tmp_path / "b", grey, parts="valid testing")
        assert "but no folder train" in refused(target, tmp_path)

    def test_a_folder_beside_train_is_told(self, tmp_path: Path) -> None:
        info, _ = prepared(folder_of(tmp_path / "images", grey, parts="train val holdout"), tmp_path)
        assert "data: left out: 1 folder 'holdout' beside train" in info.notes

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        root = tmp_path / "images"
        target = folder_of(root, grey)
        for part in ("train", "val", "test"):
            folder = os.fsencode(root / part)
            Path(os.fsdecode(folder + b"/cat")).rename(os.fsdecode(folder + b"/caf\xe9"))
            Path(os.fsdecode(folder + b"/caf\xe9/1.png")).rename(os.fsdecode(folder + b"/caf\xe9/\xff.png"))
        info, _ = prepared(target, tmp_path)
        assert info.classes == ("caf\\xe9", "dog")
        Path(os.fsdecode(os.fsencode(root) + b"/train/caf\xe9/\xff.png")).write_bytes(b"broken")
        assert "caf\\\\xe9/\\\\xff.png' is broken, or not an image" in refused(target, tmp_path)
        assert path_text("plain/ä") == "plain/ä"


class TestSafety:
    def test_no_ghostscript_is_started(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
        monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
        target = folder_of(tmp_path / "images", grey)
        eps = tmp_path / "images" / "train" / "cat" / "0.png"
        Image.new("L", (6, 5)).save(eps, "EPS")
        assert "0.png' is broken, or not an image" in refused(target, tmp_path)
        assert EpsImagePlugin.gs_binary == "gs"

    def test_decompression_bombs(self, tmp_path: Path) -> None:
        target = folder_of(tmp_path / "images", grey)
        file = tmp_path / "images" / "train" / "cat" / "0.png"
        for side in (12_000, 60_000):  # Pillow warns of the one and fails at the other
            head = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 0, 0, 0, 0)
            file.write_bytes(
                b"\x89PNG\r\n\x1a\n"
                + struct.pack(">I", 13)
                + head
                + struct.pack(">I", zipfile.crc32(head))
                + struct.pack(">I4sI", 0, b"IDAT", zipfile.crc32(b"IDAT"))
            )
            text = refused(target, tmp_path)
            assert "0.png' is too large" in text
            assert "make it smaller" in text

    def test_errors_of_an_image_name_it(self) -> None:
        with pytest.raises(DataError, match="the image 'a' is broken: lost"), reading("a"):
            raise OSError("lost")

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
    def test_archives(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(tmp_path / "pipe.npz")
        for file in (tmp_path / "pipe.npz", Path("/dev/zero")):
            assert "it is not a file" in refused(f"npz:{file}", tmp_path)
        monkeypatch.setattr("se_nas.data.npz.LARGE", 2**20)
        bomb = tmp_path / "bomb.npz"
        np.savez_compressed(bomb, x=np.zeros((10, 640, 640), dtype=np.uint8), y=np.arange(10) % 2)
        text = refused(f"npz:{bomb}", tmp_path)
        assert text.startswith("x holds 4,096,128 bytes in ")
        assert "a decompression bomb" in text
        np.savez_compressed(bomb, x=np.zeros((10, 64, 64), dtype=np.uint8), y=np.arange(10) % 2)
        assert "all 6 training images are equal" in refused(f"npz:{bomb}", tmp_path)  # no bomb


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
class TestArchives:
    @pytest.mark.parametrize(
        "names", [("x_valid", "y_valid"), ("X_Validation", "Y_validation"), ("dev_images", "dev_labels")]
    )
    def test_names_of_the_validation_part(self, tmp_path: Path, names: tuple[str, str]) -> None:
        more = {names[0]: np.arange(6 * 64).reshape(6, 8, 8), names[1]: np.arange(6) % 3}
        info, _ = prepared(f"npz:{write_npz(tmp_path / 'a.npz', **more)}", tmp_path)
        assert (info.val, info.cut) == (6, ("test",))

    def test_half_a_part_two_parts_and_other_arrays(self, tmp_path: Path) -> None:
        images, labels = np.zeros((6, 8, 8)), np.arange(6) % 3
        text = refused(f"npz:{write_npz(tmp_path / 'a.npz', x_valid=images)}", tmp_path)
        assert text.startswith("x_valid is there alone")
        both = {"x_val": images, "y_val": labels, "x_dev": images, "y_dev": labels}
        assert "both would be the val set" in refused(f"npz:{write_npz(tmp_path / 'a.npz', **both)}", tmp_path)
        info, _ = prepared(f"npz:{write_npz(tmp_path / 'a.npz', names=labels)}", tmp_path)
        assert info.notes == ("data: left out: the arrays names",)

    @pytest.mark.parametrize("shape", [(16, 16, 13), (8, 9, 10), (4, 8, 3), (6, 6, 6), (5, 6, 7, 8)])
    def test_ambiguous_axes_are_refused(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        target = f"npz:{write_npz(tmp_path / 'a.npz', shape=shape)}"
        if shape == (16, 16, 13):
            text = refused(target, tmp_path)
            assert "x has shape (60, 16, 16, 13): 16 channels of 16 x 13, or 13 channels of 16 x 16?" in text
            assert "allowed: --data.args.channels first, --data.args.channels last" in text
        with np.load(tmp_path / "a.npz") as archive:
            images = archive["x"]
        for channels, expected in (("first", images), ("last", np.moveaxis(images, -1, 1))):
            info, train = prepared(target, tmp_path, channels=channels)
            assert info.input_shape == expected.shape[1:]
            assert {i.tobytes() for i in train.images} <= {i.tobytes() for i in expected}
        assert "channels is 'middle'" in refused(target, tmp_path, channels="middle")

    @pytest.mark.parametrize(
        ("shape", "expected"),
        [((13, 16, 16), (13, 16, 16)), ((16, 16, 3), (3, 16, 16)), ((9, 8, 2), (2, 9, 8)), ((3, 8, 9), (3, 8, 9)),
         ((8, 3), (1, 8, 3)), ((8, 9, 7, 1), (1, 8, 9, 7)), ((2, 6, 6, 6), (2, 6, 6, 6))],
    )  # fmt: skip
    def test_axes_that_the_shape_tells(self, tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        assert prepared(f"npz:{write_npz(tmp_path / 'a.npz', shape=shape)}", tmp_path)[0].input_shape == expected

    @pytest.mark.parametrize("labels", [(0, 1000, 2000), (0, 1, 10**9), (7, 40, 255)])
    def test_labels_that_are_far_apart_are_names(self, tmp_path: Path, labels: tuple[int, ...]) -> None:
        file = write_npz(tmp_path / "a.npz", y=np.array(labels)[np.arange(60) % 3])
        info, train = prepared(f"npz:{file}", tmp_path)
        assert info.classes == tuple(str(label) for label in labels)
        np.testing.assert_array_equal(train.labels, np.clip(train.images.mean((1, 2, 3)).astype(int) // 60, 0, 2))
        assert info.notes == (f"data: the labels are the names of 3 classes: {', '.join(info.classes)}",)

    def test_labels_that_only_another_part_has(self, tmp_path: Path) -> None:
        more = {"x_val": np.zeros((4, 8, 8)), "y_val": np.array([0, 500] * 2)}
        file = write_npz(tmp_path / "a.npz", y=np.arange(60) % 3 * 1000, **more)
        text = refused(f"npz:{file}", tmp_path)
        assert text.startswith("the val set has labels that the training set lacks\n  allowed: 0, 1000, 2000")

    def test_labels_from_1_keep_their_numbers_and_are_told(self, tmp_path: Path) -> None:
        info, train = prepared(f"npz:{write_npz(tmp_path / 'a.npz', y=np.arange(60) % 3 + 1)}", tmp_path)
        assert (info.classes, set(train.labels.tolist())) == (("0", "1", "2", "3"), {1, 2, 3})
        assert info.notes == ("data: classes without an image to train on: 0",)

    def test_numbers_of_classes_that_no_memory_holds(self, tmp_path: Path) -> None:
        file = write_npz(tmp_path / "a.npz")
        assert "num_classes is 1000000000000" in refused(f"npz:{file}", tmp_path, num_classes=10**12)
        file = write_npz(tmp_path / "a.npz", y=np.full((60, 8, 8), 10**9))
        assert "go up to 1,000,000,000" in refused(f"npz:{file}", tmp_path)

    @pytest.mark.parametrize("part", ["val", "test"])
    def test_values_that_are_not_finite(self, tmp_path: Path, part: str) -> None:
        images = np.random.default_rng(0).random((9, 8, 8))
        images[4, 2, 3] = np.nan if part == "val" else 1e300
        file = write_npz(tmp_path / "a.npz", **{f"x_{part}": images, f"y_{part}": np.arange(9) % 3})
        words = f"the {'validation' if part == 'val' else 'test'} images contain values that are not finite"
        if part == "val":
            assert refused(f"npz:{file}", tmp_path) == words
            return
        prepared(f"npz:{file}", tmp_path)
        with pytest.raises(DataError, match=words):
            open_test(tmp_path / "run", purpose="a test")

    @pytest.mark.parametrize("images", [np.full((60, 8, 8), 7), np.tile(np.arange(64).reshape(8, 8), (60, 1, 1))])
    def test_equal_images_are_refused(self, tmp_path: Path, images: np.ndarray) -> None:
        text = refused(f"npz:{write_npz(tmp_path / 'a.npz', x=images)}", tmp_path)
        assert text.startswith(
            "all 36 training images are equal" + (": each value is 7" if images.max() == 7 else "\n")
        )


def test_data_that_an_older_version_read_are_read_again(tmp_path: Path) -> None:
    info, _ = prepared("digits", tmp_path)
    cache = tmp_path / "run" / "data"
    text = (cache / "data.json").read_text()
    (cache / "data.json").write_text(text.replace('"reading": 2', '"reading": 1'))
    (cache / "train_images.npy").write_bytes(
        (cache / "train_images.npy").read_bytes()[:-1] + b"\x63"
    )  # as long as before
    again, train = prepared("digits", tmp_path)
    assert (again, int(train.images.flat[-1]) == 0x63) == (info, False)


def test_a_search_tells_it_and_the_report_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder_of(tmp_path / "images", TestTransparency.save("RGBA"))
    result = search(tiny(tmp_path, data=Target(target=target), budget=1), view=View())
    said = capsys.readouterr()
    assert "16 images with transparency: laid on white" in " ".join((said.out + said.err).split())
    assert "16 images with transparency: laid on white" in (result.folder / "report.html").read_text()
