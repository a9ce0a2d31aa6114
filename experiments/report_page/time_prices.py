"""How long do the exact costs of all 262,144 placements of resnet20 take, block by block?"""

from __future__ import annotations

import statistics
import time

from se_nas.commands.describe import describe
from se_nas.core.errors import CostError
from se_nas.core.trial import Target

REPEATS = 15


def main() -> None:
    catalogue = describe(Target(target="resnet20"), input_shape="3,32,32", space="blockwise")
    if isinstance(catalogue.costs, CostError):
        raise catalogue.costs
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        table = catalogue.costs.table(catalogue.space)
        seconds.append(time.perf_counter() - start)
    print(
        f"{table['params'].size:,} placements: {statistics.median(seconds):.3f} s "
        f"({min(seconds):.3f} to {max(seconds):.3f}, n={REPEATS})"
    )


if __name__ == "__main__":
    main()
