"""The commands of the command line, by name."""

from __future__ import annotations

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
from se_nas.core.config import SearchConfig, TrainConfig

COMMANDS = {
    "search": Command(help="start or continue a search", add_arguments=add_search, run=run_search, config=SearchConfig),
    "sites": Command(help="list where SE blocks can be inserted", add_arguments=add_sites, run=run_sites),
    "cost": Command(help="exact cost of a placement", add_arguments=add_cost, run=run_cost),
    "confirm": Command(
        help="retrain the finalists with fresh seeds, then evaluate on the test set",
        add_arguments=add_confirm,
        run=run_confirm,
    ),
    "train": Command(
        help="train one placement on the full schedule, then evaluate on the test set",
        add_arguments=add_train,
        run=run_train,
        config=TrainConfig,
    ),
    "report": Command(
        help="rebuild report.html and all other views from the study",
        add_arguments=add_report,
        run=run_report,
    ),
    "compare": Command(
        help="compare the fronts of several runs: page, figure and table",
        add_arguments=add_compare,
        run=run_compare,
    ),
    "explain": Command(
        help="what the SE blocks of a trained network do, and which of them multiply by a constant",
        add_arguments=add_explain,
        run=run_explain,
    ),
    "bench": Command(
        help="write networks to be timed on another device, for --latency-table", add_arguments=add_bench, run=run_bench
    ),
    "export": Command(
        help="write a network of a run to a folder, each format proven equal", add_arguments=add_export, run=run_export
    ),
}
