"""What is known of each kind of block before one is built: the table that search spaces and records look names up in.

The modules are in `se_nas.insertion.attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from se_nas.core.errors import SpaceError

if TYPE_CHECKING:
    from se_nas.core.placement import Site

SE = "se"
"""The block of the SE paper, which is meant where no block is named."""


Scalar = str | int | float | bool | None
"""What an argument of a block may be."""


@dataclass(frozen=True, kw_only=True)
class BlockKind:
    """What holds for all blocks of one kind.

    ``width`` says whether it has a hidden width, so that a reduction means something beside "there is one"; ``gate``
    whether all that it does is to multiply each channel by one number; ``identity`` whether it can be made to start as
    the identity (``own_identity``: as in its paper it does so by itself); ``sizes`` the numbers of spatial axes.
    ``made`` is the place of its code, and of a block of the user's own also what `args` are for
    (`se_nas.core.own_blocks`).
    """

    title: str
    made: str
    width: bool = False
    gate: bool = False
    identity: bool = True
    own_identity: bool = False
    sizes: tuple[int, ...] = (1, 2, 3)
    source: str = ""
    args: tuple[tuple[str, Scalar], ...] = ()

    @property
    def portable(self) -> tuple[Any, ...]:
        """What it is on any machine: the place of its code without folders, and its arguments."""
        head, colon, attribute = self.made.rpartition(":")
        return (f"{PurePath(head).name}{colon}{attribute}" if head.endswith(".py") else self.made, *self.args)

    def takes(self, setting: str) -> bool:
        """Whether a setting of an SE block means something for one of this kind."""
        if self.made == BLOCKS[SE].made:
            return True
        return (setting == "rounding" and self.width) or (setting == "init" and self.identity)


_ATTENTION = "se_nas.insertion.attention"

BLOCKS: dict[str, BlockKind] = {
    SE: BlockKind(
        title="SE", made="se_nas.insertion.block:SEBlock", width=True, gate=True,
        source="Hu et al., arXiv 1709.01507, equations 2 to 4",
    ),
    "ese": BlockKind(
        title="eSE", made=f"{_ATTENTION}.ese:ESE", gate=True, source="Lee and Park, arXiv 1911.06667, equation 3",
    ),
    "eca": BlockKind(
        title="ECA", made=f"{_ATTENTION}.eca:ECA", gate=True,
        source="Wang et al., arXiv 1910.03151, equations 9 and 12",
    ),
    "ge": BlockKind(
        title="GE", made=f"{_ATTENTION}.gather_excite:GatherExcite", gate=True, identity=False,
        source="Hu et al., arXiv 1810.12348, section 3.1 (parameter-free, global extent)",
    ),
    "gct": BlockKind(
        title="GCT", made=f"{_ATTENTION}.gct:GCT", gate=True, identity=False, own_identity=True,
        source="Yang et al., arXiv 1909.11519, equations 2 to 4",
    ),
    "srm": BlockKind(
        title="SRM", made=f"{_ATTENTION}.srm:SRM", gate=True, source="Lee et al., arXiv 1903.10829, equations 1 to 5",
    ),
    "simam": BlockKind(
        title="SimAM", made=f"{_ATTENTION}.simam:SimAM", identity=False,
        source="Yang et al., ICML 2021 (PMLR 139), equations 5 and 6",
    ),
    "cbam": BlockKind(
        title="CBAM", made=f"{_ATTENTION}.cbam:CBAM", width=True,
        source="Woo et al., arXiv 1807.06521, equations 1 to 3",
    ),
    "gc": BlockKind(
        title="GC", made=f"{_ATTENTION}.global_context:GlobalContext", width=True, identity=False, own_identity=True,
        source="Cao et al., arXiv 1904.11492, equation 5",
    ),
    "scse": BlockKind(
        title="scSE", made=f"{_ATTENTION}.scse:SCSE", width=True,
        source="Roy et al., arXiv 1803.02579, equations 2 to 5",
    ),
    "coord": BlockKind(
        title="coordinate attention", made=f"{_ATTENTION}.coordinate:Coordinate", width=True, sizes=(2,),
        source="Hou et al., arXiv 2103.02907, equations 4 to 9",
    ),
}  # fmt: skip
"""The blocks that are built in, by the name that search spaces and labels give."""


def check_site(kind: BlockKind, site: Site) -> None:
    """SpaceError, with the blocks that can, if one of a kind cannot stand at a site."""
    if len(site.size) not in kind.sizes:
        raise SpaceError(
            f"{kind.title} needs {' or '.join(map(str, kind.sizes))} spatial axes, and unit {site.unit!r} has "
            f"{len(site.size)}",
            allowed=[name for name, other in BLOCKS.items() if len(site.size) in other.sizes],
        )
    if site.edge == "gate" and not kind.gate:
        raise SpaceError(
            f"{kind.title} does not give one gate for each channel, and unit {site.unit!r} multiplies by such gates "
            "itself",
            allowed=[name for name, other in BLOCKS.items() if other.gate],
        )
