"""Inputs that are nearly right, through the real entry points: no traceback, no hang, no nonsense taken for sense.

``make fuzz`` runs thousands (``--fuzz N`` inputs in all, ``--fuzz-seed`` to repeat them), the default run a few.

What counts as nonsense when it is accepted:

- a configuration with a number that is infinite, NaN or out of its range, that is not the same when read back, or that
  lacks what was given;
- a space with nothing to choose, a reduction out of its range, or a setting that is not one of the known;
- a placement that gives a unit a position it does not have, a hidden width of 0 or more than 16 times its channels,
  ``keep`` where there is nothing to keep, or that is another network when its label is read again;
- data with fewer than two classes or images, values that are not finite, labels that are no classes, or as many labels
  as not there are images;
- a network from a folder that gives no finite output of the right shape, or has another key than its placement;
- a study whose trials have metrics or costs that are not finite, or that are of no unit of its space.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz_inputs import broken, documents, mutated, scalars, texts, values, words
from fuzz_outcome import Tally, explore, sensible
from helpers import REPOSITORY
from hypothesis import strategies as st
from PIL import Image

from se_nas.analysis.summary import summarize
from se_nas.cli import options_of, parse
from se_nas.commands.confirm import confirm
from se_nas.commands.options import COMMANDS
from se_nas.commands.results import existing_run, stored
from se_nas.core.config import Limits, SearchConfig, TrainConfig
from se_nas.core.documents import from_yaml
from se_nas.core.overrides import build, configured, grouped, names_of, read_config
from se_nas.core.placement import ALLOWED, REDUCTIONS, Placement, Unit
from se_nas.core.ranges import is_finite
from se_nas.core.serialization import from_plain, to_plain
from se_nas.core.trial import Recipe, Target
from se_nas.data.base import DataInfo
from se_nas.data.store import open_part, prepare_data
from se_nas.engine.run_folder import RunFolder
from se_nas.exports.bundle import Exported, load
from se_nas.space.space import Space
from se_nas.space.spec import SpaceSpec, read_space

pytestmark = pytest.mark.fuzz

RUN = REPOSITORY / "tests" / "golden" / "run-0.1"

SHARES = {"arguments": 25, "configurations": 15, "spaces": 15, "placements": 15, "placement files": 10, "archives": 8,
          "folders": 6, "best folders": 3, "study rows": 3}  # fmt: skip
"""Percent of the inputs that are of a kind: what is read at once is tried more often."""


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[..., Tally]:
    number, seed = request.config.getoption("--fuzz"), request.config.getoption("--fuzz-seed")

    def run(kind: str, inputs: st.SearchStrategy[Any], one: Callable[[Any], object]) -> Tally:
        tally = explore(kind, inputs, one, max(8, number * SHARES[kind] // 100), seed)
        with capsys.disabled():
            if "fuzz" in request.config.getoption("-m"):
                print(f"\n{tally.line}")
        wrong = tally.counts.keys() - {"refused", "accepted"}
        assert not wrong, f"\n{tally.report()}"
        assert tally.counts["refused"], "not one input was wrong"
        return tally

    return run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Relative names are of an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check_config(config: SearchConfig | TrainConfig) -> None:
    plain = to_plain(config)
    sensible(is_finite(plain), "a number that is not finite")
    sensible(build(plain, type(config)) == config, "not the same when read back")
    for number in (config.train.lr, config.train.batch_size, config.train.epochs):
        sensible(0 < number < 1e7 or isinstance(number, float), f"out of range: {number}")
    sensible(0 <= config.seed < 2**32, f"seed: {config.seed}")


ARGUMENTS = {
    "search": {
        "--lr": st.sampled_from([0.1, 1]), "--epochs": st.integers(1, 9), "--budget": st.integers(1, 99),
        "--cost": st.sampled_from(["params", "gflops,latency"]), "--device": st.sampled_from(["cpu", "cuda:1"]),
        "--space": st.sampled_from(["stagewise", "{decide: unit}"]), "--max_params": st.integers(1, 10**6),
        "--input_shape": st.sampled_from(["3,8,8", "1x8x8"]), "--max_time": st.sampled_from(["9s", "1h"]),
        "--measure": st.sampled_from(['["latency"]', "[memory]"]), "--seed": st.integers(0, 9),
    },
    "train": {"--placement": st.sampled_from(["all:4", "none"]), "--lr": st.just(0.1), "--include_val": st.booleans()},
    "sites": {"--backbone": texts, "--input_shape": texts},
    "cost": {"--backbone": texts, "--num_classes": scalars},
    "report": {"--every": scalars, "--figures": texts},
    "confirm": {"--top": st.integers(1, 3), "--finalists": texts, "--seeds": scalars, "--margin": scalars},
    "export": {"--select": texts, "--format": texts, "--opset": scalars, "--max_drop": scalars,
               "--fold_margin": scalars},
    "compare": {"--cost": texts, "--to": texts},
    "explain": {"--select": texts, "--trial": scalars, "--images": scalars, "--device": texts},
    "bench": {"--format": texts, "--latency_batch": scalars, "--placements": scalars},
    "init": {"--data": texts, "--to": texts, "--budget": scalars, "--epochs": scalars},
    "predict": {"--select": texts, "--classes": scalars, "--to": texts, "--device": texts},
    "evaluate": {"--data": texts, "--part": texts, "--select": texts, "--device": texts},
    "env": {},
    "completion": {"--to": texts},
}  # fmt: skip
NEEDED = {"report": 1, "confirm": 1, "export": 1, "compare": 2, "explain": 1, "bench": 1, "predict": 2, "evaluate": 1,
          "completion": 1}  # fmt: skip
STORAGES = ("sqlite:///nowhere/x.db", "mysql://u:p@127.0.0.1:1/x", "oracle://x", "mssql+pyodbc://x", "foo://x", "x",
            "postgresql://127.0.0.1:1/x", "postgresql://127.0.0.1:x/y", "sqlite://", "sqlite:///", "://",
            "sqlite:///a\0b", "cockroachdb://x", "sqlite+aiosqlite:///x", "redis://localhost")  # fmt: skip


def call(line: list[str]) -> None:
    """What the command line does, without the trainings."""
    given = parse(line)
    options = given[given.command]
    if given.command == "search":
        config = configured(None, {name: options.as_dict()[name] for name in SearchConfig.__dataclass_fields__})
        check_config(config)
        read_space(config.space)
        RunFolder(Path(config.out or "run"))
    elif given.command == "train":
        plain = {name: options.as_dict()[name] for name in TrainConfig.__dataclass_fields__}
        check_config(build(grouped(plain, TrainConfig), TrainConfig))
    elif given.command == "confirm":  # its worker processes would start for each
        confirm(options.run, top=options.top, seeds=options.seeds, max_seeds=options.max_seeds, margin=options.margin)
    else:
        COMMANDS[given.command].run(options)


def test_arguments(fuzz: Callable[..., Tally], here: Path) -> None:
    """Command lines of every command, also against a folder that names a storage elsewhere."""
    (here / "run").mkdir()

    @st.composite
    def lines(draw: st.DrawFn) -> list[str]:
        command = draw(st.sampled_from([*COMMANDS, "search", "search", "train"]))
        runs = [draw(st.one_of(texts, st.just("run"))) for _ in range(NEEDED.get(command, 0))]
        options = [name for name in options_of(command) if name not in ("--help", "--watch", "--probe_lr")]
        verb = ["export"] if command == "bench" else []
        line = [command, *verb, *runs, *draw(words(options, ARGUMENTS[command]))]
        if command in ("sites", "cost", "bench", "init"):  # a backbone that is there takes a second
            line += ["--backbone", draw(texts)]
        if command in ("report", "export") and draw(st.booleans()):
            storage = draw(st.sampled_from(STORAGES))
            (here / "run" / "config.yaml").write_text(json.dumps({"storage": storage}))
            line = [command, "run", "--storage", storage]
        odd = draw(st.integers(0, 19))
        return [*line, draw(texts)] if odd == 0 else [draw(texts), *line[1:]] if odd == 1 else line

    fuzz("arguments", lines(), call)


def test_configurations(fuzz: Callable[..., Tally], here: Path) -> None:
    """YAML files of a search and of a training."""
    recipe = to_plain(Recipe())
    limits = to_plain(Limits(params=1e6, own={"x": 1.0}))
    right = {**to_plain(SearchConfig()), **recipe, "max_params": 1e6, "max_own": {"x": 1},
             "train": recipe, "max": limits, "backbone": {"target": "resnet8", "args": {"width": 1}},
             "space": {"decide": "unit", "reductions": ["none", 4]}}  # fmt: skip
    settings = {
        name: st.one_of(st.just(right.get(name)), st.just(right.get(name)), mutated(right.get(name)))
        for name in names_of(SearchConfig)
    } | {"placement": texts}
    file = here / "given.yaml"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        for kind in (SearchConfig, TrainConfig):
            given = read_config(str(file), kind)
            if kind is SearchConfig:
                check_config(configured(None, {n: v for n, v in given.items() if n not in ("plan", "quiet", "json")}))
        raw = from_yaml(content.decode())
        sensible({n for n in raw if n in names_of(SearchConfig)} <= {*given, *raw}, "a setting is lost")

    fuzz("configurations", documents(settings), read)


def check_choices(units: tuple[Unit, ...], placement: Placement) -> None:
    """Nonsense for a network that cannot be, or that nobody means."""
    known = {unit.name: unit for unit in units}
    sensible(placement.choices.keys() <= known.keys(), "a unit that is not there")
    for name, choice in placement.choices.items():
        sensible(choice.kind != "keep" or known[name].existing is not None, "keeps what is not there")
        if choice.kind == "se":
            site = next((s for s in known[name].sites if s.position == choice.position), None)
            sensible(site is not None, f"no position {choice.position}")
            sensible(1 <= (choice.squeeze_channels or 0) <= site.width / REDUCTIONS[0], f"width: {choice}")
            sensible(math.isfinite(choice.gate_scale) and math.isfinite(choice.gate_offset), f"gate: {choice}")


def test_spaces(fuzz: Callable[..., Tally], here: Path, units8: tuple[Unit, ...]) -> None:
    """Search-space files, then met with a backbone."""
    usual = st.lists(st.sampled_from(["none", "keep", 16, 8, 4, 2.5]), min_size=1, max_size=5)
    reductions = st.one_of(usual, usual, usual, st.lists(st.one_of(st.just(4), values), max_size=3))
    settings: dict[str, st.SearchStrategy[Any]] = {
        "decide": st.sampled_from(["stage", "unit"]),
        "reductions": reductions,
        "stages": st.dictionaries(st.sampled_from(["stage1", "stage2", "layer1.0", "x"]), reductions, max_size=2),
        "units": st.dictionaries(st.sampled_from(["a", "b"]), st.lists(texts, max_size=2), max_size=2),
        "bias": st.booleans(),
        **{name: st.one_of(st.sampled_from(allowed), st.lists(st.sampled_from(allowed), max_size=3))
           for name, allowed in ALLOWED.items()},
    }  # fmt: skip
    file = here / "space.yaml"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        spec = read_space(str(file))
        low, high = REDUCTIONS
        for listed in (spec.reductions, *spec.stages.values()):
            sensible(len(listed) > 0, "nothing to choose")
            sensible(all(r in ("none", "keep") or low <= r <= high for r in listed), f"a reduction of {listed}")
        sensible(from_plain(to_plain(spec), SpaceSpec) == spec, "not the same when read back")
        space = Space(spec, units8)
        sensible(space.size >= 1, "nothing to propose")
        for placement in (space.baseline, space.reference, space.placement(dict.fromkeys(space.parameters, 0))):
            check_choices(units8, placement)

    fuzz("spaces", documents(settings), read)


def check_placement(space: Space, placement: Placement) -> None:
    check_choices(space.units, placement)
    if placement.label and all(choice.kind != "se" or choice.reduction for choice in placement.choices.values()):
        sensible(space.parse(placement.label).key == placement.key, f"another by its label: {placement.label}")


def test_placements(fuzz: Callable[..., Tally], space8: Space) -> None:
    """Placements as people write them."""
    names = st.one_of(st.sampled_from(["stage1", "stage2", "stage3", "layer1", "layer1.0", "all"]), texts)
    numbers = [
        "16",
        "4",
        "none",
        "keep",
        "1e-300",
        "1e-5",
        "1e300",
        "0",
        "-4",
        "nan",
        "inf",
        "4:pre",
        "4:max:max",
        "1_6",
    ]
    reduction = st.one_of(st.sampled_from(numbers), texts, st.floats().map(str))
    odd = st.tuples(names, st.sampled_from(["=", "=", ":", "==", " = ", ""]), reduction).map("".join)
    right = st.tuples(
        st.sampled_from(["stage1", "stage2", "stage3", "layer1", "layer3.0"]), st.just("="),
        st.sampled_from(["16", "4", "none", "2.5", "8:max", "4:pre:tanh"]),
    ).map("".join)  # fmt: skip
    several = st.lists(st.one_of(right, right, right, odd), min_size=1, max_size=3).map(",".join)
    fuzz("placements", st.one_of(several, several, several, reduction.map("all:{}".format), texts),
         lambda text: check_placement(space8, space8.parse(text)))  # fmt: skip


def test_placement_files(fuzz: Callable[..., Tally], here: Path, space8: Space) -> None:
    """JSON files: of stages, of choices, or whole ``placement.json``."""
    record = json.loads((RUN / "best" / "placement.json").read_text())
    choices = to_plain(space8.parse("stage1=4,stage3=16"))
    bases = ({"stage1": 4, "stage2": "none"}, {"placement": "all:4"}, choices, {"placement": choices}, record)
    dumped = st.one_of(st.sampled_from(bases).flatmap(mutated), values).map(lambda data: json.dumps(data).encode())
    file = here / "placement.json"

    def read(content: bytes) -> None:
        file.write_bytes(content)
        check_placement(space8, space8.parse(str(file)))

    fuzz("placement files", st.one_of(dumped, dumped, dumped.flatmap(broken), st.just(b'"placement.json"')), read)


def check_data(info: DataInfo, folder: Path) -> None:
    sensible(info.train >= 2 and info.val >= 1, f"{info.train} and {info.val} images")
    sensible(len(info.classes) >= 2 or info.target_shape != () or info.target_type != "integer", "one class")
    for part in ("train", "val"):
        rows = open_part(folder, part)
        sensible(bool(np.isfinite(rows.images).all()), "images that are not finite")
        sensible(len(rows.images) == len(rows.labels), "more images or labels")
        whole = info.target_type == "integer" and info.target_shape == ()
        sensible(not whole or 0 <= rows.labels.min() <= rows.labels.max() < len(info.classes), "labels of no class")


def test_archives(fuzz: Callable[..., Tally], here: Path) -> None:
    """NumPy archives: of many shapes and types, with parts missing, doubled or broken."""
    shapes = st.sampled_from([(24, 8, 8), (24, 8, 8, 3), (24, 3, 8, 8), (24, 8, 8, 8), (24,), (0, 8, 8), (24, 1), (3,
                              8, 8), (24, 0, 8), (24, 4, 4, 4, 2), (), (24, 1, 1), (24, 2)])  # fmt: skip
    types = st.sampled_from(["uint8", "float32", "float64", "int64", "uint16", "bool", "complex64", "U3", "M8[s]",
                             "int8", "float16", "uint64"])  # fmt: skip
    right = {"x_train": ((24, 8, 8), "uint8"), "y_train": ((24,), "int64")}
    names = st.sampled_from(["x_train", "y_train", "x", "y", "x_val", "y_val", "x_test", "y_test", "train_images",
                             "train_labels", "X_TRAIN", "x_valid", "y_valid", "extra"])  # fmt: skip

    @st.composite
    def archives(draw: st.DrawFn) -> bytes:
        wanted = {**right, **draw(st.dictionaries(names, st.tuples(shapes, types), max_size=3))}
        generator = np.random.default_rng(draw(st.integers(0, 9)))
        high = draw(st.sampled_from([2, 4, 4, 4, 1, 10**9]))
        arrays = {}
        for name, (shape, kind) in wanted.items():
            array = generator.integers(0, high if name.lower().startswith("y") or "labels" in name else 99, shape)
            with np.errstate(all="ignore"):
                array = np.asarray(array).astype(kind)
            if array.dtype.kind == "f" and array.size and draw(st.integers(0, 3)) == 0:
                array.flat[0] = draw(st.sampled_from([np.nan, np.inf, -1.5]))
            arrays[name] = array
        np.savez(here / "made.npz", **arrays)
        content = (here / "made.npz").read_bytes()
        return draw(st.one_of(st.just(content), st.just(content), st.just(content), broken(content)))

    def read(content: bytes) -> None:
        (here / "given.npz").write_bytes(content)
        shutil.rmtree(here / "run", ignore_errors=True)
        check_data(prepare_data(Target(target="npz:given.npz"), here / "run"), here / "run")

    fuzz("archives", archives(), read)


def test_folders(fuzz: Callable[..., Tally], here: Path) -> None:
    """Folders of images: parts, classes and files with all kinds of names, modes and contents."""
    names = st.sampled_from(["train", "val", "test", "valid", "dev", "a", "b", ".hidden", "ä", "é\udcff", "x" * 200,
                             "a b", "=1", "\x1b[31m", "__MACOSX", "Train"])  # fmt: skip
    files = st.sampled_from(["0.png", "1.png", "2.jpg", "3.tif", "4.gif", "5.bmp", ".x.png", "x.txt", "x", "x.eps",
                             "x.webp", "x.PNG", "\udcff.png"])  # fmt: skip
    kinds = st.sampled_from([("L", 8), ("RGB", 8), ("RGBA", 8), ("P", 8), ("1", 8), ("I;16", 8), ("F", 8), ("CMYK", 8),
                             ("L", 9), ("L", 1), ("LA", 8), ("empty", 0), ("junk", 0), ("link", 0), ("pipe",
                             0)])  # fmt: skip
    entry = st.tuples(st.lists(names, min_size=1, max_size=3), files, kinds, st.integers(0, 255))

    def make(given: list[tuple[list[str], str, tuple[str, int], int]], root: Path) -> None:
        for folders, name, (mode, size), shade in given:
            folder = root.joinpath(*folders)
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / name
            if file.exists() or file.is_symlink():
                continue
            if mode in ("empty", "junk"):
                file.write_bytes(b"" if mode == "empty" else b"\x89PNG\r\n\x1a\n" + bytes([shade]) * 40)
            elif mode == "link":
                file.symlink_to("/dev/zero" if shade % 2 else "nowhere")
            elif mode == "pipe":
                os.mkfifo(file)
            else:
                pixels = np.random.default_rng(shade).integers(0, 255, (size, size)).astype(np.uint8)
                image = Image.fromarray(pixels).convert("L" if mode == "I;16" else mode)
                image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else image
                try:
                    image.save(file)
                except (OSError, ValueError, KeyError):  # this format has no such mode
                    file.write_bytes(b"no image")

    def read(given: tuple[bool, list[Any]]) -> None:
        usual, odd = given
        shutil.rmtree(here / "images", ignore_errors=True)
        shutil.rmtree(here / "run", ignore_errors=True)
        right = [([c], f"{i}.png", ("L", 8), 16 * i + j) for j, c in enumerate(("a", "b")) for i in range(12)]
        try:
            make([*odd, *(right if usual else [])], here / "images")
        except (OSError, UnicodeError):
            return  # this file system has no such name
        check_data(prepare_data(Target(target="folder:images"), here / "run"), here / "run")

    fuzz("folders", st.tuples(st.sampled_from([True, True, False]), st.lists(entry, max_size=5)), read)


def test_best_folders(fuzz: Callable[..., Tally], here: Path) -> None:
    """Folders that networks are loaded from, with a placement or weights that were changed."""
    record = json.loads((RUN / "best" / "placement.json").read_text())
    weights = (RUN / "best" / "model.safetensors").read_bytes()
    folder = here / "best"
    folder.mkdir()
    least = {
        name: record[name] for name in ("schema", "key", "placement", "backbone", "units", "input_shape", "classes")
    }
    changed = st.one_of(mutated(record, most=1), mutated(least, most=1)).map(lambda data: json.dumps(data).encode())
    records = st.one_of(changed, changed, changed, changed.flatmap(broken))

    def read(given: tuple[bytes, bytes]) -> None:
        (folder / "placement.json").write_bytes(given[0])
        (folder / "model.safetensors").write_bytes(given[1])
        network = load(folder)
        exported = from_plain(json.loads(given[0]), Exported)
        with torch.no_grad():
            output = network(torch.zeros(1, *exported.input_shape))
        sensible(bool(torch.isfinite(output).all()), "an output that is not finite")
        sensible(output.shape[1] == (len(exported.classes) or output.shape[1]), "another number of classes")
        sensible(exported.placement.key == exported.key, "another key")

    whole = st.just(json.dumps(record).encode())
    inputs = st.one_of(*[st.tuples(records, st.just(weights))] * 3, st.tuples(whole, broken(weights)))
    fuzz("best folders", inputs, read)


def test_study_rows(fuzz: Callable[..., Tally], here: Path) -> None:
    """Rows of the study of a run, and its configuration."""
    shutil.copytree(RUN, here / "run")
    with sqlite3.connect(RUN.joinpath("study.db").as_uri() + "?immutable=1", uri=True) as database:
        rows = [(table, identity, json.loads(text)) for table in ("trial_user_attributes", "study_user_attributes")
                for identity, text in database.execute(f"SELECT {table[:-1]}_id, value_json FROM {table}")]  # fmt: skip
    heavy = [row for row in rows if isinstance(row[2], dict | list)]

    @st.composite
    def changes(draw: st.DrawFn) -> tuple[str, int, str]:
        table, identity, data = draw(st.sampled_from(heavy * 3 + rows))
        text = json.dumps(draw(mutated(data)))
        return table, identity, draw(st.one_of(*[st.just(text)] * 5, texts.filter(lambda t: "\udcff" not in t)))

    def read(change: tuple[str, int, str]) -> None:
        table, identity, text = change
        (here / "run" / "study.db").write_bytes((RUN / "study.db").read_bytes())
        with sqlite3.connect(here / "run" / "study.db") as database:
            database.execute(f"UPDATE {table} SET value_json = ? WHERE {table[:-1]}_id = ?", (text, identity))
        database.close()
        _, study = existing_run(here / "run")
        try:
            stored(study, "config", SearchConfig), stored(study, "data", DataInfo)
            found = study.findings()
            summarize(found, folder="run")
        finally:
            study.storage.remove_session()
            study.storage.engine.dispose()
        for trial in found.trials:
            if trial.state == "complete":
                sensible(math.isfinite(trial.metrics[found.objective.metric].value), "a metric that is not finite")
                sensible(is_finite([cost.value for cost in trial.costs.values()]), "a cost that is not finite")
            check_choices(study.space.units, trial.placement)

    fuzz("study rows", changes(), read)
