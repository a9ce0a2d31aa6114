"""Mutation testing of the modules that decide: ``python tests/mutants.py [MODULE ...] [--sample N] [--rest]``.

mutmut changes one thing at a time in a function and runs the tests that reach it; a mutant that no test notices
survives. Of its changes those are left out that only change a string, or what an error says (``raise`` and ``assert``).
Decorated functions, properties and constants are not changed by mutmut.

Each module is held against its own fast tests, in a process of its own. ``mutants/`` keeps the results:
``mutmut show NAME`` prints a mutant. Survivors that are known stand in ``survivors.txt``, with the reason why no test
kills them: a change that makes no difference is ``equivalent``, one that is let live is ``accepted``.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mutmut.__main__ import _run
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name

DECISIONS = "tests/test_decisions.py"
TESTS: dict[str, tuple[str, ...]] = {
    "samplers/known_cost": (
        "tests/samplers/test_known_cost.py", f"{DECISIONS}::TestProposal",
        "-k", "not Contract and not less_than and not threads",
    ),
    "samplers/posterior": (
        "tests/samplers/test_posterior.py", f"{DECISIONS}::TestProposal",
        "-k", "not less_than and not beats_random",
    ),
    "samplers/pareto": ("tests/samplers/test_pareto.py", "-k", "not improvement_agrees_with_monte_carlo"),
    "analysis/judge": ("tests/analysis/test_judge.py", f"{DECISIONS}::TestClaim", f"{DECISIONS}::TestWinner"),
    "analysis/statistics": ("tests/analysis/test_statistics.py", f"{DECISIONS}::TestClaim"),
    "analysis/verdict": ("tests/analysis/test_verdict.py",),
    "analysis/summary": ("tests/analysis/test_summary.py", "tests/analysis/test_verdict.py::TestProvisional"),
    "analysis/selection": ("tests/analysis/test_selection.py",),
    "space/exact_cost": (
        "tests/space/test_cost.py", f"{DECISIONS}::test_a_block_that_runs_three_times_has_its_parameters_once",
        "tests/insertion/test_existing_se.py::test_closed_form_equals_a_full_trace_of_every_placement",
    ),
    "core/placement": ("tests/core/test_records.py", "tests/space/test_space.py"),
    "space/space": ("tests/space/test_space.py", "tests/space/test_levels.py"),
    "engine/exam": ("tests/engine/test_exam.py",),
    "data/split": ("tests/data/test_split.py",),
    "engine/proposer": ("tests/engine/test_proposer_decisions.py",),
}  # fmt: skip
"""Module -> the tests that its mutants are held against, as arguments of pytest.

None of them trains: a process in which torch has computed gradients cannot be forked.
"""

SEED = 0
CAUGHT = ("killed", "timeout", "segfault")
SURVIVORS = Path(__file__).parent / "survivors.txt"
STRICT = re.compile(r",\s*(strict=\w+)?(?=\))")


def source(module: str) -> Path:
    return Path("se_nas") / f"{module}.py"


def mutants_of(module: str, sample: int | None) -> list[str]:
    """Names of all mutants of a module, or of a sample; a larger sample contains a smaller one."""
    found = mutate_file_contents(str(source(module)), source(module).read_text())
    names = [get_mutant_name(source(module), name) for name in found.mutant_names]
    random.Random(SEED).shuffle(names)
    return names[:sample]


def results_of(module: str) -> dict[str, str]:
    """Mutant -> what became of it, of those that have been run."""
    data = SourceFileMutationData(path=source(module))
    data.load()
    return {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items() if code is not None}


def run(module: str, *, sample: int | None, rest: bool) -> None:
    """Run the mutants of a module: all or a sample of them, or of these those that are not caught yet."""
    names = mutants_of(module, sample)
    if rest:
        known = results_of(module)
        names = [name for name in names if known.get(name) not in CAUGHT]
    if not names:
        return
    # The tool's record of which tests reach which function is that of the module before.
    Path("mutants/mutmut-stats.json").unlink(missing_ok=True)
    config().only_mutate = [str(source(name)) for name in TESTS]
    config().pytest_add_cli_args_test_selection = list(TESTS[module])
    _run(names, 1)


def change_of(name: str, module: str) -> str:
    """The lines that a mutant changes, with - and +."""
    lines = get_diff_for_mutant(name, path=source(module)).splitlines()
    return "\n".join(f"{x[0]} {x[1:].strip()}" for x in lines if x[:1] in ("-", "+") and x[:3] not in ("---", "+++"))


def reasons() -> dict[str, str]:
    """Change -> why it may live. In the file a reason comes first, then changes, with an empty line after each."""
    known, reason = {}, ""
    for block in SURVIVORS.read_text().split("\n\n"):
        lines = [line.strip() for line in block.splitlines() if line and not line.startswith("#")]
        if lines and lines[0][:2] not in ("- ", "+ "):
            reason = lines.pop(0)
        if lines:
            known["\n".join(lines)] = reason
    return known


def reason_of(change: str, known: dict[str, str]) -> str:
    """Why a change may live; "" if nobody has said. The argument ``strict`` of zip guards against bugs, as assert."""
    lines = {STRICT.sub("", line[2:]) for line in change.splitlines()}
    return "equivalent: strict of zip" if "strict" in change and len(lines) == 1 else known.get(change, "")


def report(modules: Sequence[str], sample: int | None) -> bool:
    """A table, and the survivors that are not known; whether there are none."""
    known, new = reasons(), 0
    rows: list[tuple[str, Counter[str]]] = []
    for module in modules:
        counts: Counter[str] = Counter()
        results = results_of(module)
        for name in mutants_of(module, sample):
            if (status := results.get(name)) is None:
                continue
            if status in CAUGHT:
                counts["killed"] += 1
                continue
            reason = reason_of(change := change_of(name, module), known)
            counts[reason.partition(":")[0] or "new"] += 1
            if not reason:
                print(f"{name}: {status}\n{change}\n")
        rows.append((module, counts))
        new += counts["new"]
    print(f"{'module':24}{'mutants':>9}{'killed':>8}{'equivalent':>12}{'accepted':>10}{'new':>5}{'share':>8}")
    for name, counts in [*rows, ("all", sum((counts for _, counts in rows), Counter()))]:
        if number := counts.total():
            share = counts["killed"] / max(1, number - counts["equivalent"])
            print(
                f"{name:24}{number:9}{counts['killed']:8}{counts['equivalent']:12}{counts['accepted']:10}"
                f"{counts['new']:5}{share:8.1%}"
            )
    return new == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Which changes of the modules that decide do the tests not notice?")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(TESTS)}; all if none is given")
    parser.add_argument("--sample", type=int, help="at most so many mutants of each module, drawn with a fixed seed")
    parser.add_argument("--rest", action="store_true", help="only those that have not been caught before")
    parser.add_argument("--report", action="store_true", help="run nothing; tell what is known")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := [module for module in given.modules if module not in TESTS]:
        parser.error(f"unknown: {', '.join(unknown)}; known are {', '.join(TESTS)}")
    mutation_operators[:] = [(kind, change) for kind, change in mutation_operators if change is not operator_string]
    modules = given.modules or list(TESTS)
    if given.alone:
        return run(modules[0], sample=given.sample, rest=given.rest)
    more = [*(["--sample", str(given.sample)] if given.sample else []), *["--rest"] * given.rest]
    for module in [] if given.report else modules:
        began = time.monotonic()  # the tool keeps what it knows in global variables: one process for each module
        subprocess.run([sys.executable, __file__, module, "--alone", *more], check=True)
        print(f"{module}: {time.monotonic() - began:.0f} s", flush=True)
    return sys.exit(0 if report(modules, given.sample) else 1)


if __name__ == "__main__":
    main()
