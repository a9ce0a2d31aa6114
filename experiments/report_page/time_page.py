"""How long the page of a run takes, part by part, and how large it is::

python experiments/report_page/time_page.py RUN
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from se_nas.commands.results import existing_run, write_page_of

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    given = parser.parse_args()
    start = time.perf_counter()
    run, study = existing_run(given.run)
    trials = study.trials()
    read = time.perf_counter()
    write_page_of(run, study)
    done = time.perf_counter()
    size = (run.path / "report.html").stat().st_size
    print(f"{len(trials)} trials: read {read - start:.2f} s, page {done - read:.2f} s, {size:,} bytes")
