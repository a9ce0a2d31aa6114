"""The time of SE blocks: each by itself, as the difference of the network to itself without it."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from se_nas.core.placement import Choice
from se_nas.engine.block_times import before_and_after, block_times
from se_nas.insertion.block import SEBlock
from se_nas.space.stopwatch import torch_runtime

SLOW = 0.02


class SlowBlock(SEBlock):
    """An SE block that takes a while beside what it computes."""

    def forward(self, u: Tensor) -> Tensor:
        time.sleep(SLOW)
        return super().forward(u)


class Net(nn.Module):
    def __init__(self, *blocks: SEBlock) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.blocks(self.stem(images))
        return out


CHOICE = Choice(kind="se", squeeze_channels=2)


def test_the_slow_block_is_found() -> None:
    network = Net(SEBlock(8, CHOICE), SlowBlock(8, CHOICE)).eval()
    threads = torch.get_num_threads()
    found = block_times(network, (3, 8, 8))
    assert torch.get_num_threads() == threads
    assert set(found) == {"blocks.0", "blocks.1"}
    slow = found["blocks.1"]
    assert slow.unit == "ms"
    assert slow.kind == "measured"
    assert str(slow.conditions).endswith("batch 1, 1 thread, cpu")
    assert slow.interval is not None
    assert slow.value > 500 * SLOW  # half of what it sleeps, whatever else runs here
    assert slow.interval[0] <= slow.value <= slow.interval[1]
    assert found["blocks.0"].value < slow.value


def test_the_second_is_relative_to_the_first() -> None:
    slow, fast = Net(SlowBlock(8, CHOICE)).eval(), Net().eval()
    before, after = before_and_after(slow, fast, (3, 8, 8), torch_runtime(torch.device("cpu")))
    assert before.value > 1000 * SLOW > after.value
    assert before.conditions == after.conditions
