"""The command line: what it prints, what it refuses, and how fast it answers."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY, environment, run_python, write_space

from se_nas.cli import main, parse


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command with a mistake says: exit code 2, nothing on standard output, no traceback."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


class TestHelp:
    def test_answers_soon_and_without_torch(self) -> None:
        """In processor time: not many times what the import of its parser takes, a third of a second on a free core."""
        code = (
            "import sys\n"
            "from se_nas.cli import main\n"
            "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
            "heavy = {'torch', 'optuna', 'pytorch_lightning', 'pandas', 'numpy', 'fvcore', 'sklearn'}\n"
            "print(sorted(heavy & set(sys.modules)))\n"
        )
        times: dict[str, list[float]] = {"import jsonargparse": [], code: []}
        for _ in range(3):
            for program, seconds in times.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                done = run_python("-c", program)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                assert done.returncode == 0, done.stderr
                seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert min(times[code]) < 4 * min(times["import jsonargparse"])
        assert done.stdout.splitlines()[-1] == "[]"
        for command in ("search", "sites", "cost", "report", "export"):
            assert command in done.stdout

    @pytest.mark.parametrize("command", ["search", "sites", "cost", "report", "export"])
    def test_every_command_has_help(self, capsys: pytest.CaptureFixture[str], command: str) -> None:
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert not end.value.code
        assert "usage:" in capsys.readouterr().out

    def test_search_help_explains_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["search", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for words in ("Number of trainings", "Passes over the training set", "Learnable parameters"):
            assert words in text


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["search", "--bugdet", "3"], ["unknown option --bugdet", "did you mean '--budget'?"]),
            (["search", "--epoch", "3"], ["unknown option --epoch", "did you mean '--epochs'?"]),
            (["search", "--max-parms", "3"], ["unknown option --max_parms", "did you mean '--max_params'?"]),
            (["cost", "--placment", "none"], ["unknown option --placment", "did you mean '--placement'?"]),
            (["search", "--budget", "0"], ["budget is 0", "a whole number from 1"]),
            (["search", "--budget", "many"], ["budget is 'many'", "allowed: a whole number"]),
            (["search", "--max-params", "few"], ["max_params is 'few'", "allowed: a number"]),
            (["confirm", "runs/x", "--workers", "few"], ["workers is 'few'", "allowed: a whole number"]),
            (["train"], ["se-nas train needs --placement", "see se-nas train --help"]),
            (["evaluate", "runs/x"], ["se-nas evaluate needs --data"]),
            (["predict"], ["se-nas predict needs RUN and IMAGES"]),
            (["train", "--placement", "none", "--max-params", "9"], ["unknown option --max_params"]),
            (["search", "--train.augment", "blur"], ["augment is 'blur'", "none", "shift", "shift-flip"]),
            (["search", "--augment", "blur"], ["augment is 'blur'", "shift-flip"]),
            (["search", "--cost", "watts"], ["cost is watts", "gflops, macs, params, activations"]),
            (["search", "--max-time", "soon"], ["max_time is 'soon'", "90s, 10m, 2h"]),
            (["search", "--device", "gpu"], ["device is gpu", "auto, cpu, cuda, cuda:N"]),
            (["search", "--margin", "0"], ["margin is 0.0", "a number above 0"]),
            (["search", "--lr", "0"], ["lr is 0", "a number above 0"]),
            (["search", "--workers", "0"], ["workers is 0"]),
            (["search", "--workers", "1000000000"], ["workers is 1000000000", "from 1 to 4,096"]),
            (["search", "--num_classes", "1000000000000"], ["num_classes is 1000000000000", "from 1 to 1,000,000"]),
            (["search", "--seed", "9" * 18], [f"seed is {'9' * 18}", "from 0 to 4,294,967,295"]),
            (["search", "--lr", ".inf"], ["lr is inf"]),
            (["search", "--lr", "0x" + "f" * 400], ["too large"]),
            (["search", "--budget", "0x" + "f" * 4000], ["budget is a number of thousands of digits"]),
            (["search", "--train", "{lr: ~}"], ["lr is None", "a number"]),
            (["search", "--max", "{own: {a: 1, a: 2}}"], ["'a' is there twice"]),
            (["search", "--budget", ""], ["budget is ''", "a whole number"]),
            (
                ["search", "--budget", "[" * 200_000],
                ["cannot be used: ", "nested more than 50 deep"],
            ),
            (["search", "--budget", "!!timestamp x"], ["'!!timestamp x' cannot be read"]),
            (["sites", "--backbone", "x" * 300], ["unknown backbone 'xxx"]),
            (["report", "~nouser/x"], ["'~nouser/x' is in the home folder of a user who is not known"]),
            (["report", "x" * 300], ["is too long for the name of a file (300 characters)"]),
            (["search", "--optimizer", "adma"], ["optimizer is adma", "sgd, adamw, package.module:Optimizer"]),
            (["search", "--backbone", "resent20"], ["unknown backbone 'resent20'", "did you mean 'resnet20'?"]),
            (["search", "--data", "digit"], ["unknown data 'digit'", "did you mean 'digits'?"]),
            (["search", "--sampler", "tpee"], ["unknown sampler 'tpee'", "did you mean 'tpe'?"]),
            (["search", "--space", "stagwise"], ["no search space 'stagwise'", "did you mean 'stagewise'?"]),
            (["search", "--config", "nowhere.yaml"], ["cannot read the configuration 'nowhere.yaml'", "No such file"]),
            (["sites", "--backbone", "no.such.module:net"], ["cannot import 'no.such.module'"]),
            (["sites", "--input_shape", "3"], ["input_shape is '3'", "3,224,224"]),
            (["cost", "--placement", "stage9=4"], ["no stage or unit 'stage9'", "stage1, stage2, stage3"]),
            (["cost", "--placement", "all:0"], ["'0' is not a reduction"]),
            (
                ["cost", "--placement", "stage1=1e-300"],
                ["'1e-300' is not a reduction", "a number from 0.0625 to 65,536"],
            ),
            (["cost", "--placement", "all:1e-5"], ["'1e-5' is not a reduction"]),
            (["cost", "--placement", "stage1=4,stage1=8"], ["'stage1=8' leaves nothing of what is said of 'stage1'"]),
            (["cost", "--placement", "stage1=64"], ["leaves a hidden width of 0 at 16 channels", "at most 16"]),
            (["cost", "--placement", "keep!"], ["cannot read the placement 'keep!'", "STAGE=R"]),
            (["report", "nowhere"], ["nowhere' is not a run folder: it has no study.db", "run se-nas search first"]),
            (["export", "nowhere"], ["is not a run folder"]),
            (["serach"], ["unknown command 'serach'", "did you mean 'search'?"]),
            (
                ["search", "--backbone", "examples/net.py"],
                ["does not say what in the file is meant", "path/to/file.py:attribute"],
            ),
            (
                ["search", "--backbone", __file__],
                ["does not say what in the file is meant", f"{__file__}:TestMistakes"],
            ),
            ([], ["se-nas COMMAND --help", "start or continue a search"]),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
    )
    def test_named_with_what_is_allowed(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        arguments: list[str],
        words: list[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        text = refused(capsys, *arguments)
        for word in words:
            assert word in text

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("bugdet: 3\n", ["unknown key 'bugdet'", "did you mean 'budget'?", "backbone, "]),
            ("train:\n  epoch: 3\n", ["unknown key 'train.epoch'", "did you mean 'epochs'?"]),
            ("max:\n  param: 3\n", ["unknown key 'max.param'", "did you mean 'params'?"]),
            ("backbone:\n  taget: resnet8\n", ["unknown key 'backbone.taget'", "did you mean 'target'?"]),
            ("train:\n  epochs: many\n", ["epochs is 'many'", "config.yaml", "allowed: a whole number"]),
            ("epochs: many\n", ["epochs is 'many'", "config.yaml"]),
            ("space:\n  reduction: [4]\n", ["unknown key 'reduction'", "did you mean 'reductions'?"]),
            ("budget: 0\n", ["budget is 0"]),
            ("- budget\n", ["a configuration is a mapping of keys to values"]),
            ("a: [\n", ["not valid YAML"]),
        ],
    )
    def test_keys_of_a_configuration(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: list[str]
    ) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(content)
        text = refused(capsys, "search", "--config", str(file))
        for word in words:
            assert word in text

    def test_no_abbreviations(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "unknown option --budge" in refused(capsys, "search", "--budge", "3")


class TestConfiguration:
    def test_print_config_has_every_key_and_reads_back(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(["search", "--backbone", "resnet8", "--epochs", "3", "--max-params", "1e5", "--print_config"])
        assert not end.value.code
        text = capsys.readouterr().out
        content = yaml.safe_load(text)
        assert content["backbone"]["target"] == "resnet8"
        assert content["train"]["epochs"] == 3
        assert content["max"]["params"] == 1e5
        assert {"budget", "space", "sampler", "seed", "out", "workers"} <= content.keys()
        file = tmp_path / "printed.yaml"
        file.write_text(text)
        with pytest.raises(SystemExit):
            main(["search", "--config", str(file), "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out) == content

    def test_options_win_over_the_file_and_short_names_work_there(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("backbone: resnet14\nbudget: 7\nmax_params: 1e5\ntrain:\n  epochs: 2\n  lr: 0.3\n")
        with pytest.raises(SystemExit):
            main(["search", "--config", str(file), "--epochs", "5", "--print_config"])
        content = yaml.safe_load(capsys.readouterr().out)
        assert content["backbone"]["target"] == "resnet14"
        assert (content["budget"], content["train"]["epochs"], content["train"]["lr"]) == (7, 5, 0.3)
        assert content["max"]["params"] == 1e5

    def test_a_file_of_version_0_1_opens(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("backbone: resnet14\ngraph: auto\n")
        with pytest.raises(SystemExit):
            main(["search", "--config", str(file), "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["graph"] == "plain"
        text = refused(capsys, "search", "--graph", "auto")
        assert "graph is 'auto'" in text
        assert "plain, shared, compiled" in text

    @pytest.mark.parametrize("file", sorted((REPOSITORY / "experiments").rglob("*.yaml")), ids=lambda p: p.name)
    def test_example_configurations_are_valid(self, capsys: pytest.CaptureFixture[str], file: Path) -> None:
        with pytest.raises(SystemExit) as end:
            main(["search", "--config", str(file), "--print_config"])
        assert not end.value.code
        assert "backbone:" in capsys.readouterr().out

    def test_a_training_takes_from_the_configuration_of_a_search_what_both_have(self, tmp_path: Path) -> None:
        file = tmp_path / "search.yaml"
        file.write_text("backbone: resnet8\nbudget: 64\nsampler: random\nout: runs/search\ntrain: {epochs: 3}\n")
        given = parse(["train", "--config", str(file), "--placement", "all:2", "--lr", "0.2"]).train
        assert (given.backbone.target, given.train.epochs, given.train.lr) == ("resnet8", 3, 0.2)
        assert given.out == "runs/train"

    @pytest.mark.parametrize("words", [["--epochs", "7"], ["--epochs=7"]])
    def test_confirm_has_its_own_epochs(self, words: list[str]) -> None:
        assert parse(["confirm", "runs/some", *words]).confirm.epochs == 7


class TestSitesAndCost:
    def test_sites_show_the_range_of_the_whole_space(self, capsys: pytest.CaptureFixture[str]) -> None:
        text = printed(capsys, "sites", "--backbone", "resnet8")
        dearest = 77_754 + sum(2 * c * c // 4 for c in (16, 32, 64))  # r=4 in every stage, without biases
        assert f"from 77,754 to {dearest:,} params" in text

    def test_sites_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        content = json.loads(printed(capsys, "sites", "--backbone", "resnet8", "--json"))
        assert content["backbone"] == "resnet8"
        assert content["input_shape"] == [1, 8, 8]
        assert content["params"] == 77_754
        standard = [site for site in content["sites"] if site["position"] == "standard"]
        assert [(s["unit"], s["stage"], s["channels"], s["size"]) for s in standard] == [
            ("layer1.0", "stage1", 16, [8, 8]),
            ("layer2.0", "stage2", 32, [4, 4]),
            ("layer3.0", "stage3", 64, [2, 2]),
        ]
        assert [s["module"] for s in standard] == ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]

    def test_sites_for_people(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "160")
        text = printed(capsys, "sites", "--backbone", "resnet8")
        assert "layer3.0.bn2" in text
        assert "3 units, 64 placements; without SE 77,754 params" in text

    def test_sites_of_a_network_without_prices(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = tmp_path / "fourier.py"
        file.write_text(
            "import torch\nfrom se_nas.backbones.resnet import resnet\n"
            "class Net(torch.nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n"
            "        self.body = resnet(depth=8, num_classes=2, in_channels=3)\n"
            "    def forward(self, x):\n        return self.body(torch.fft.ifft2(torch.fft.fft2(x)).real)\n"
        )
        words = ("--backbone", f"{file}:Net", "--input_shape", "3,16,16")
        text = " ".join(printed(capsys, "sites", *words).split())
        assert "3 units, 64 placements; no prices: Net has operations whose cost is not defined: aten::_fft" in text
        content = json.loads(printed(capsys, "sites", *words, "--json"))
        assert (content["units"], content["macs"], len(content["sites"]) > 2) == (3, None, True)
        assert "aten::_fft" in content["unpriced"]
        assert main(["cost", *words]) == 2
        assert "CostError: Net has operations whose cost is not defined" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("placement", "added", "widths"),
        [
            ("none", 0, {}),
            ("all:16", 672, {"layer1.0": 1, "layer2.0": 2, "layer3.0": 4}),
            ("stage1=4,stage3=16", 640, {"layer1.0": 4, "layer3.0": 4}),
            ("layer2.0=8", 256, {"layer2.0": 4}),
        ],
    )
    def test_cost_as_json(
        self, capsys: pytest.CaptureFixture[str], placement: str, added: int, widths: dict[str, int]
    ) -> None:
        content = json.loads(printed(capsys, "cost", "--backbone", "resnet8", "--placement", placement, "--json"))
        assert content["params"] == 77_754 + added
        assert content["added"]["params"] == added
        assert content["squeeze_channels"] == widths
        assert content["gflops"] == content["macs"] / 1e9

    def test_cost_of_a_json_file_and_for_people(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        file = tmp_path / "placement.json"
        file.write_text('{"stage1": 4, "stage3": 16}')
        text = printed(capsys, "cost", "--backbone", "resnet8", "--placement", str(file))
        assert "78,394" in text
        assert "+640" in text
        assert "squeeze channels: layer1.0 4, layer3.0 4" in text

    def test_shape_and_classes_can_be_given(self, capsys: pytest.CaptureFixture[str]) -> None:
        content = json.loads(
            printed(
                capsys, "cost", "--backbone", "resnet20", "--input_shape", "3,32,32", "--num_classes", "10",
                "--placement", "none", "--json",
            )
        )  # fmt: skip
        assert content["params"] == 272_474

    def test_read_only_commands_write_nothing(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        printed(capsys, "sites", "--backbone", "resnet8")
        printed(capsys, "cost", "--backbone", "resnet8")
        assert list(tmp_path.iterdir()) == []


class TestSearch:
    def test_result_for_people_and_as_json(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        command = [
            "search", "--backbone", "resnet8", "--space", write_space(tmp_path), "--epochs", "1", "--budget", "2",
            "--executor", "inline", "--out", str(tmp_path / "run"),
        ]  # fmt: skip
        assert main(command) == 0
        first = capsys.readouterr()
        assert "Ended: the budget of 2 trainings is spent (2 trained)." in first.out
        assert "Pareto front" in first.out
        assert "Compared with SE everywhere at r=16" in first.out
        assert str(tmp_path / "run") in first.out.replace("\n", "")
        assert re.search(r"\[1/2\] trial 0 none: val_accuracy \d+\.\d\d % \(", first.err)
        assert "\x1b" not in first.out + first.err

        assert main([*command, "--json"]) == 0
        second = capsys.readouterr()
        content = json.loads(second.out)
        assert second.err == ""
        assert content["trained"] == 2
        assert content["baseline"]["placement"] == "none"
        assert content["reference"]["placement"] == "all:16"
        assert content["best"]["trial"] in (0, 1)

        assert main([*command, "--quiet"]) == 0
        third = capsys.readouterr()
        assert third.err == ""
        assert third.out.startswith("Ended:")

    def test_report_and_export(self, capsys: pytest.CaptureFixture[str], finished: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        shutil.copytree(finished, run)
        content = json.loads(printed(capsys, "report", str(run), "--json"))
        assert content["trained"] == 8
        assert "Pareto front" in printed(capsys, "report", str(run))
        said = printed(capsys, "export", str(run), "--to", str(tmp_path / "net")).strip()
        assert said.splitlines()[-1] == str(tmp_path / "net")
        names = {p.name for p in (tmp_path / "net").iterdir()}
        assert names == {"placement.json", "model.safetensors", "proof.json", "README.md", "network.svg"}
        assert "select is 'worst'" in refused(capsys, "export", str(run), "--select", "worst")
        assert "the run has no trial '99'" in refused(capsys, "export", str(run), "--select", "trial=99")


def test_as_a_module_a_mistake_ends_with_code_2() -> None:
    done = run_python("-m", "se_nas.cli", "search", "--budget", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "ConfigError: budget is 0\n  allowed: a whole number from 1 to 1,000,000,000\n"


def test_a_closed_pipe_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "se_nas.cli", "sites", "--backbone", "resnet8", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    process.wait(timeout=60)
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
