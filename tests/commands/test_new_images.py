"""predict and evaluate: a trained network of a run on images that its search has not seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import REPOSITORY, tiny, write_npz
from PIL import Image

import se_nas
from se_nas.cli import main
from se_nas.commands.search import search
from se_nas.core.errors import ConfigError, DataError, RunError
from se_nas.core.trial import Recipe, Target
from se_nas.data.sealed import openings
from se_nas.data.store import open_part, read_info

CLASSES = ("cat", "dog", "owl")
SIZE = 16


def photos(root: Path, number: int, *, seed: int, classes: tuple[str, ...] = CLASSES) -> Path:
    """Noisy photos of 20 x 24 pixels whose colour tells the class."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(number):
            pixels = generator.integers(0, 120, (24, 20, 3))
            pixels[..., CLASSES.index(name) if name in CLASSES else 0] += 40
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos that were searched with."""
    return photos(tmp_path_factory.mktemp("seen") / "photos", 20, seed=0)


@pytest.fixture(scope="module")
def run(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = Target(target=f"folder:{seen}", args={"size": SIZE})
    return search(tiny(tmp_path_factory.mktemp("searched"), data=data, keep_weights="all")).folder


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Others like them."""
    return photos(tmp_path_factory.mktemp("unseen") / "photos", 6, seed=1)


def by_hand(run: Path, files: list[Path]) -> np.ndarray:
    """Probabilities by the network in best/, of images prepared here."""
    info = read_info(run)
    images = []
    for file in files:
        with Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BOX)))
    pixels = np.stack(images).transpose(0, 3, 1, 2).astype(np.float64)
    normal = (pixels - np.reshape(info.mean, (3, 1, 1))) / np.reshape(info.std, (3, 1, 1))
    with torch.no_grad():
        return se_nas.load(run / "best")(torch.tensor(normal, dtype=torch.float32)).softmax(1).numpy()


class TestPredict:
    def test_images_are_prepared_as_in_training(self, run: Path, unseen: Path) -> None:
        files = sorted(unseen.rglob("*.png"))
        found = se_nas.predict(run, unseen, device="cpu")
        assert found.images == tuple(map(str, files))
        assert found.classes == CLASSES
        np.testing.assert_allclose(found.probabilities, by_hand(run, files), atol=1e-5)
        assert found.labels == tuple(CLASSES[n] for n in found.probabilities.argmax(1))
        assert len(repr(found).splitlines()) <= 12

    def test_the_prepared_training_images_are_those_of_their_files(self, run: Path, seen: Path) -> None:
        """What is read anew is what was trained on, byte by byte."""
        stored = {image.tobytes() for part in ("train", "val") for image in open_part(run, part).images}  # type: ignore[arg-type]
        from se_nas.data.new_images import preparation_of

        preparation = preparation_of(read_info(run))
        again = {preparation.read(file).tobytes() for file in seen.rglob("*.png")}
        assert stored <= again

    def test_an_export_and_an_array_give_the_same(self, run: Path, unseen: Path) -> None:
        file = unseen / "dog" / "00.png"
        first = se_nas.predict(run, file, device="cpu").probabilities
        np.testing.assert_array_equal(se_nas.predict(run / "best", [file], device="cpu").probabilities, first)
        with Image.open(file) as image:
            pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).transpose(2, 0, 1)[None]
        for array in (pixels, torch.from_numpy(pixels.copy())):
            np.testing.assert_array_equal(se_nas.predict(run, array, device="cpu").probabilities, first)

    def test_select_means_another_network(self, run: Path, unseen: Path) -> None:
        one = se_nas.predict(run, unseen, select="baseline", device="cpu")
        other = se_nas.predict(run, unseen, select="reference", device="cpu")
        assert one.network == "no SE (trial 0)"
        assert np.abs(one.probabilities - other.probabilities).max() > 1e-3
        with pytest.raises(RunError, match="is an export: it has one network"):
            se_nas.predict(run / "best", unseen, select="baseline")

    def test_a_table_and_json(
        self, run: Path, unseen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "out.csv"
        names = [str(unseen / "cat" / "00.png"), str(unseen / "owl")]
        assert main(["predict", str(run), *names, "--to", str(file), "--json", "--device", "cpu"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["errors"] == []
        table = pd.read_csv(file)
        assert list(table) == ["image", "class", "probability", *(f"p_{name}" for name in CLASSES)]
        assert table["image"].tolist() == [row["image"] for row in content["images"]]
        assert len(table) == 7
        for row, image in zip(table.to_dict("records"), content["images"], strict=True):
            assert row["class"] == image["class"] == max(image["probabilities"], key=image["probabilities"].get)
            assert row["probability"] == pytest.approx(image["probability"])
            assert sum(image["probabilities"].values()) == pytest.approx(1)

    def test_for_people(
        self, run: Path, unseen: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(unseen)  # a long path would leave no room for the second class
        assert main(["predict", str(run), "cat/00.png", "--classes", "2", "--device", "cpu"]) == 0
        captured = capsys.readouterr()
        found = se_nas.predict(run, unseen / "cat" / "00.png", device="cpu")
        (((first, second), _),) = found.likeliest(2)
        assert f"{first[1]:.3f}" in captured.out
        assert f"{second[0]} {second[1]:.3f}" in captured.out
        assert all(line.endswith(" ...") for line in captured.err.splitlines()), "what is being done"

    def test_each_image_that_cannot_be_used_is_told_and_the_others_are_not_lost(
        self, run: Path, unseen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "broken.png").write_bytes(b"no image")
        (tmp_path / "notes.txt").write_text("notes")
        (tmp_path / "empty").mkdir()
        names = ["broken.png", "notes.txt", "empty", "absent.png"]
        good = unseen / "cat" / "00.png"
        command = ["predict", str(run), str(good), *(str(tmp_path / name) for name in names), "--json"]
        assert main([*command, "--device", "cpu"]) == 2
        captured = capsys.readouterr()
        content = json.loads(captured.out)
        assert [row["image"] for row in content["images"]] == [str(good)]
        assert [error["image"] for error in content["errors"]] == [str(tmp_path / name) for name in names]
        for words in (
            "broken.png' is broken, or not an image",
            "notes.txt' is not an image",
            "has no images",
            "there is no",
        ):
            assert captured.err.count(words) == 1
        assert captured.err.count("DataError: ") == 4
        with pytest.raises(DataError, match="is broken"):
            se_nas.predict(run, [good, tmp_path / "broken.png"])

    def test_a_wrong_size_without_resizing(self, tmp_path: Path) -> None:
        data = Target(target=f"folder:{photos(tmp_path / 'p', 6, seed=0)}")
        run = search(tiny(tmp_path, data=data, budget=2)).folder
        image = tmp_path / "large.png"
        Image.new("RGB", (40, 30)).save(image)
        with pytest.raises(DataError, match="has 40 x 30 pixels, and the network was trained on 20 x 24"):
            se_nas.predict(run, image)

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "I;16"])
    def test_grey_networks_take_any_image_on_the_scale_of_the_training(
        self, mode: str, finished: Path, tmp_path: Path
    ) -> None:
        grey = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
        values = grey.astype(np.uint16) * 257 if mode == "I;16" else grey
        image = Image.fromarray(values)
        (image if mode == "I;16" else image.convert(mode)).save(tmp_path / "digit.png")
        found = se_nas.predict(finished, tmp_path / "digit.png", select="baseline", device="cpu")
        expected = se_nas.predict(finished, grey[None, None], select="baseline", device="cpu")
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)

    def test_images_of_16_bits_are_told_from_the_statistics_where_nothing_else_is_left(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        for label in ("a", "b"):
            (tmp_path / "deep" / label).mkdir(parents=True)
            for index in range(8):
                values = generator.integers(0, 2**16 - 1, (8, 8)).astype(np.uint16)
                Image.fromarray(values).save(tmp_path / "deep" / label / f"{index}.png")
        run = search(tiny(tmp_path, data=Target(target=f"folder:{tmp_path / 'deep'}"), budget=2)).folder
        file = tmp_path / "deep" / "a" / "0.png"
        first = se_nas.predict(run, file, device="cpu").probabilities
        moved = shutil.copytree(run / "best", tmp_path / "moved")
        np.testing.assert_array_equal(se_nas.predict(moved, file, device="cpu").probabilities, first)
        with Image.open(file) as image:
            byte = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        byte.save(tmp_path / "byte.png")
        np.testing.assert_allclose(se_nas.predict(moved, tmp_path / "byte.png").probabilities, first, atol=0.02)

    def test_networks_that_give_no_class(self, tmp_path: Path, run: Path) -> None:
        with pytest.raises(DataError, match=r"the images have shape \(2, 5\)"):
            se_nas.predict(run, np.zeros((2, 5)))
        assert main(["predict", str(tmp_path), "x.png"]) == 2


class TestEvaluate:
    def test_accuracy_is_that_of_the_predictions(self, run: Path, unseen: Path) -> None:
        found = se_nas.evaluate(run, f"folder:{unseen}", device="cpu")
        predicted = se_nas.predict(run, unseen, device="cpu")
        right = np.array([Path(i).parent.name == c for i, c in zip(predicted.images, predicted.labels, strict=True)])
        (measured,) = found.measured
        assert (measured.metric, measured.how, measured.images) == ("accuracy", "Wilson", 18)
        assert measured.value == right.mean()
        assert found.metrics["accuracy"] == pytest.approx(right.mean())
        names = np.array([Path(i).parent.name for i in predicted.images])
        for one in found.classes:
            assert one.images == 6
            assert one.score is not None
            assert one.score.value == right[names == one.name].mean()
        assert found.seen == {"train": 0, "val": 0}
        assert found.unseen is None
        assert "None of these images is in the training" in repr(found)

    def test_images_of_the_search_are_told_whatever_their_files_are_called(
        self, run: Path, seen: Path, unseen: Path, tmp_path: Path
    ) -> None:
        mixed = shutil.copytree(unseen, tmp_path / "mixed")
        for name in CLASSES:
            for file in (seen / name).iterdir():
                with Image.open(file) as image:
                    image.save(mixed / name / f"copy-{file.stem}.bmp")
        found = se_nas.evaluate(run, f"folder:{mixed}", device="cpu")
        info = read_info(run)
        assert found.seen == {"train": info.train, "val": info.val}
        assert found.unseen is not None
        assert found.unseen.images == 78 - info.train - info.val == 18 + info.test
        assert "36 training images and 12 validation images" in repr(found)

    def test_an_export_that_was_moved_says_that_it_does_not_know(self, run: Path, unseen: Path, tmp_path: Path) -> None:
        moved = shutil.copytree(run / "best", tmp_path / "moved")
        found = se_nas.evaluate(moved, f"folder:{unseen}", device="cpu")
        assert found.seen is None
        assert "is unknown" in repr(found)
        assert found.measured == se_nas.evaluate(run, f"folder:{unseen}", device="cpu").measured

    def test_classes_match_by_name_not_by_number(self, run: Path, tmp_path: Path) -> None:
        """Two of three classes: their folders have other numbers than in the run."""
        some = photos(tmp_path / "some", 5, seed=2, classes=("dog", "owl"))
        found = se_nas.evaluate(run, f"folder:{some}", device="cpu")
        predicted = se_nas.predict(run, some, device="cpu")
        right = [Path(i).parent.name == c for i, c in zip(predicted.images, predicted.labels, strict=True)]
        assert found.measured[0].value == np.mean(right)
        assert [(one.name, one.images) for one in found.classes] == [("cat", 0), ("dog", 5), ("owl", 5)]
        assert found.classes[0].score is None
        assert "No images of cat." in found.notes

    def test_a_class_that_the_network_lacks(self, run: Path, tmp_path: Path) -> None:
        other = photos(tmp_path / "other", 3, seed=2, classes=("cat", "dogs"))
        with pytest.raises(DataError, match="the network has no class 'dogs'") as error:
            se_nas.evaluate(run, f"folder:{other}")
        assert error.value.hint == "did you mean 'dog'?"
        assert error.value.allowed == CLASSES

    def test_parts_and_the_sealed_test_part(self, tmp_path: Path) -> None:
        root = tmp_path / "parts"
        for seed, part in enumerate(("train", "val", "test")):
            photos(root / part, 5, seed=seed)
        run = search(tiny(tmp_path, data=Target(target=f"folder:{root}", args={"size": SIZE}), budget=2)).folder
        every = se_nas.evaluate(run, f"folder:{root}", device="cpu")
        assert every.images == 45
        assert "test set evaluated (evaluation 1 in this run, in test_openings.jsonl)" in repr(every)
        other = se_nas.evaluate(run, f"folder:{root}", part="val", device="cpu")
        assert (other.seen, "test set" in " ".join(other.notes)) == ({"train": 0, "val": 15}, False)
        sealed = se_nas.evaluate(run, f"folder:{root / 'test'}", select="baseline", device="cpu")
        assert "The sealed test set of the run is among these images" in repr(sealed)
        log = openings(run)
        assert [(line["purpose"].split()[0], line["images"]) for line in log] == [("evaluate", 15)] * len(log)
        again = se_nas.evaluate(run, f"folder:{root / 'test'}", select="baseline", device="cpu")
        assert (again.notes, openings(run)) == (sealed.notes, log), "the same network again is the same opening"
        assert sealed.seen == {"train": 0, "val": 0}
        with pytest.raises(DataError, match="has no part 'val'"):
            se_nas.evaluate(run, f"folder:{root / 'test'}", part="val")
        with pytest.raises(ConfigError, match="part is 'middle'"):
            se_nas.evaluate(run, f"folder:{root}", part="middle")  # type: ignore[arg-type]

    def test_another_metric_of_the_search_stands_first(self, tmp_path: Path) -> None:
        file = write_npz(tmp_path / "a.npz")
        config = tiny(tmp_path, data=Target(target=f"npz:{file}"), metric="val_f1", direction="maximize", budget=2)
        run = search(config).folder
        found = se_nas.evaluate(run, f"npz:{write_npz(tmp_path / 'b.npz', n=90)}", device="cpu")
        first, second = found.measured
        assert (first.metric, first.how, first.images) == ("f1", "jackknife", 90)
        assert first.low <= first.value == found.metrics["f1"] <= first.high
        assert (second.metric, second.how) == ("accuracy", "Wilson")
        assert found.seen is not None

    def test_from_the_command_line(self, run: Path, unseen: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["evaluate", str(run), "--data", f"folder:{unseen}", "--device", "cpu"]
        assert main(command) == 0
        text = capsys.readouterr().out
        assert "on 18 images of folder:" in text.replace("\n", "")
        assert "90 % interval over images (Wilson)" in text
        assert all(name in text for name in CLASSES)
        assert main([*command, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["images"] == 18
        assert content["measured"][0]["metric"] == "accuracy"
        assert main(["evaluate", str(run)]) == 2
        assert "data" in capsys.readouterr().err


class TestOtherTasks:
    """Numbers as targets, a loop of one's own, a data module: what works, and what is refused in words."""

    @pytest.mark.parametrize(("name", "how"), [("Brightness", "bootstrap"), ("Silent", "jackknife")])
    def test_numbers_as_targets(self, name: str, how: str, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        for file in ("a.npz", "b.npz"):
            images = generator.integers(0, 255, (120, 8, 8)).astype(np.uint8)
            np.savez(tmp_path / file, x=images, y=images.mean((1, 2)).astype(np.float32) / 255)
        task = Target(target=f"{REPOSITORY / 'tests' / 'commands' / 'test_explain.py'}:{name}")
        data = Target(target=f"npz:{tmp_path / 'a.npz'}")
        result = se_nas.search(tiny(tmp_path, data=data, task=task, budget=2, keep_weights="all"))
        found = se_nas.evaluate(result, f"npz:{tmp_path / 'b.npz'}", device="cpu")
        (measured,) = found.measured
        with np.load(tmp_path / "b.npz") as archive:
            info = read_info(result.folder)
            normal = torch.tensor((archive["x"][:, None] - info.mean[0]) / info.std[0], dtype=torch.float32)
            with torch.no_grad():
                given = result.network()(normal).mean(1).numpy()
            expected = float(((given - archive["y"]) ** 2).mean())
        assert (measured.metric, measured.how, measured.images) == ("mse", how, 120)
        assert measured.value == pytest.approx(expected, rel=0.02)  # Lightning means over batches
        assert measured.low < measured.value < measured.high
        assert found.classes == ()
        assert found.seen == {"train": 0, "val": 0}
        with pytest.raises(RunError, match="does not give one class for each image"):
            se_nas.predict(result, normal)

    def test_a_loop_of_ones_own(self, tmp_path: Path) -> None:
        loop = Target(target=f"{REPOSITORY / 'tests' / 'loops.py'}:Plain")
        result = se_nas.search(tiny(tmp_path, trainer=loop, train=Recipe(epochs=1), budget=2, keep_weights="all"))
        with pytest.raises(RunError, match="a training loop of your own, and only that can test it"):
            se_nas.evaluate(result, "digits")
        Image.new("L", (8, 8)).save(tmp_path / "a.png")
        with pytest.raises(DataError, match="the training images came from the trainer itself"):
            se_nas.predict(result, tmp_path / "a.png")
        assert se_nas.predict(result, torch.zeros(2, 1, 8, 8)).probabilities.shape == (2, 3)

    def test_a_data_module(self, tmp_path: Path) -> None:
        module = Target(target=f"{REPOSITORY / 'tests' / 'commands' / 'test_api.py'}:Module")
        result = se_nas.search(tiny(tmp_path, data=module, budget=2, keep_weights="all"))
        with pytest.raises(RunError, match="LightningDataModule, whose transforms only it knows"):
            se_nas.evaluate(result, "digits")
        images = torch.randn(5, 1, 8, 8)
        with torch.no_grad():
            expected = result.network()(images).softmax(1).numpy()
        np.testing.assert_allclose(se_nas.predict(result, images, device="cpu").probabilities, expected, atol=1e-6)
