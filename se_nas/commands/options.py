"""The commands of the command line, by name and in the order of their groups."""

from __future__ import annotations

from se_nas.commands.program_options import add_completion, add_env, add_init, run_completion, run_env, run_init
from se_nas.commands.result_options import (
    add_compare,
    add_explain,
    add_export,
    add_report,
    run_compare,
    run_explain,
    run_export,
    run_report,
)
from se_nas.commands.shared_options import Command
from se_nas.commands.space_options import add_bench, add_cost, add_sites, run_bench, run_cost, run_sites
from se_nas.commands.training_options import add_confirm, add_search, add_train, run_confirm, run_search, run_train
from se_nas.commands.using_options import add_evaluate, add_predict, run_evaluate, run_predict
from se_nas.core.config import SearchConfig, TrainConfig

BEFORE, SEARCH, USE, PROGRAM = "Before a search", "Search", "Use a network", "About this program"
"""Groups in the list of commands."""

COMMANDS = {
    "init": Command(
        group=BEFORE,
        help="write a commented search.yaml for your network and data",
        examples=(
            "se-nas init --backbone timm:resnet18 --data folder:photos",
            "se-nas init --backbone my_net.py:Net --data npz:cells.npz --to cells.yaml",
        ),
        add_arguments=add_init,
        run=run_init,
    ),
    "sites": Command(
        group=BEFORE,
        help="list where SE blocks can be inserted",
        examples=("se-nas sites --backbone resnet20", "se-nas sites --backbone timm:resnet18 --diagram resnet18.svg"),
        add_arguments=add_sites,
        run=run_sites,
    ),
    "cost": Command(
        group=BEFORE,
        help="exact cost of a placement",
        examples=(
            "se-nas cost --backbone resnet20 --placement stage2=8,stage3=4",
            "se-nas cost --backbone timm:resnet18 --placement all:16 --measure latency",
        ),
        add_arguments=add_cost,
        run=run_cost,
    ),
    "search": Command(
        group=SEARCH,
        help="start or continue a search",
        examples=(
            "se-nas search                                   # resnet20 on digits",
            "se-nas search --backbone timm:resnet18 --data folder:photos --data.args.size 64 --plan",
            "se-nas search --config search.yaml --budget 100",
            "se-nas search --max-params 300e3 --max-time 2h",
        ),
        add_arguments=add_search,
        run=run_search,
        config=SearchConfig,
    ),
    "confirm": Command(
        group=SEARCH,
        help="retrain the finalists with fresh seeds, then evaluate on the test set",
        examples=("se-nas confirm runs/resnet20-digits", "se-nas confirm runs/resnet20-digits --top 1 --seeds 5"),
        add_arguments=add_confirm,
        run=run_confirm,
    ),
    "report": Command(
        group=SEARCH,
        help="rebuild report.html and all other views from the study",
        examples=(
            "se-nas report runs/resnet20-digits",
            "se-nas report runs/resnet20-digits --watch",
            "se-nas report runs/resnet20-digits --figures paper",
        ),
        add_arguments=add_report,
        run=run_report,
    ),
    "compare": Command(
        group=SEARCH,
        help="compare the fronts of several runs: page, figure and table",
        examples=("se-nas compare runs/resnet20-digits runs/resnet8-digits --to comparison",),
        add_arguments=add_compare,
        run=run_compare,
    ),
    "explain": Command(
        group=SEARCH,
        help="what the SE blocks of a trained network do, and which of them multiply by a constant",
        examples=("se-nas explain runs/resnet20-digits", "se-nas explain runs/resnet20-digits --select reference"),
        add_arguments=add_explain,
        run=run_explain,
    ),
    "train": Command(
        group=USE,
        help="train one placement on the full schedule, then evaluate on the test set",
        examples=(
            "se-nas train --placement runs/resnet20-digits/best/placement.json --epochs 100 --out runs/long",
            "se-nas train --backbone resnet20 --placement stage2=8,stage3=4 --epochs 100",
        ),
        add_arguments=add_train,
        run=run_train,
        config=TrainConfig,
    ),
    "predict": Command(
        group=USE,
        help="predict the classes of images with a trained network of a run",
        examples=(
            "se-nas predict runs/photos cat.jpg dog.jpg",
            "se-nas predict runs/photos/best new-photos --to classes.csv",
        ),
        add_arguments=add_predict,
        run=run_predict,
    ),
    "evaluate": Command(
        group=USE,
        help="evaluate a trained network on your own labelled images, with intervals",
        examples=(
            "se-nas evaluate runs/photos --data folder:new-photos",
            "se-nas evaluate runs/photos --data folder:new-photos --select baseline --json",
        ),
        add_arguments=add_evaluate,
        run=run_evaluate,
    ),
    "export": Command(
        group=USE,
        help="write a network of a run to a folder, each format proven equal",
        examples=(
            "se-nas export runs/resnet20-digits --format python,onnx --to winner",
            "se-nas export runs/resnet20-digits --select max-params=275e3 --to small",
        ),
        add_arguments=add_export,
        run=run_export,
    ),
    "bench": Command(
        group=USE,
        help="write networks to be timed on another device, for --latency-table",
        examples=("se-nas bench export to-pixel8 --backbone resnet20",),
        add_arguments=add_bench,
        run=run_bench,
    ),
    "env": Command(
        group=PROGRAM,
        help="show versions, devices, extras and runtimes, for a bug report",
        examples=("se-nas env", "se-nas env --json"),
        add_arguments=add_env,
        run=run_env,
    ),
    "completion": Command(
        group=PROGRAM,
        help="write the script for tab completion in a shell",
        examples=(
            "se-nas completion bash --to ~/.local/share/bash-completion/completions/se-nas",
            "se-nas completion zsh --to ~/.zfunc/_se-nas",
        ),
        add_arguments=add_completion,
        run=run_completion,
    ),
}
