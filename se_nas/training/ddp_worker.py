"""Main program of one rank: ``python -m se_nas.training.ddp_worker``; `se_nas.training.ddp` starts it."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import torch
from torch import distributed

from se_nas.core.errors import reason_of
from se_nas.core.serialization import from_json
from se_nas.core.trial import Verdict
from se_nas.data.shards import Rank, devices_of
from se_nas.training.ddp import WEIGHTS, Message, Start
from se_nas.training.evaluate import checkpoints_of, save_weights, train_candidate
from se_nas.training.trainer import out_of_memory


class LineChannel:
    """Reports of rank 0 go out as lines, verdicts come in as lines; the other ranks have nothing to say."""

    def __init__(self, output: TextIO, rank: int) -> None:
        self._output = output
        self._rank = rank
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, message: Message) -> None:
        self._output.write(json.dumps(asdict(message)) + "\n")
        self._output.flush()

    def report(self, epoch: int, metrics: Mapping[str, float]) -> Verdict:
        if self._rank != 0:
            return "continue"  # rank 0 tells the others what to do
        self.tell(Message(kind="epoch", epoch=epoch, metrics=dict(metrics)))
        verdict: Verdict = json.loads(self._answers.get())["verdict"]
        return verdict

    def alive(self, seen: Mapping[str, float]) -> None:
        if self._rank == 0:
            self.tell(Message(kind="alive", metrics=dict(seen)))

    def _listen(self) -> None:
        for line in sys.stdin:
            self._answers.put(line)
        os._exit(1)  # whoever wanted this training is gone


def main() -> None:
    """Train the rank's share."""
    # What libraries print must not come between the lines.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = from_json(sys.stdin.readline(), Start, where="the request of a rank")
    channel = LineChannel(output, start.rank)
    try:
        stopped = _train(start, channel)
    except Exception as error:  # told to whoever started this rank
        channel.tell(Message(kind="error", text=reason_of(error), out_of_memory=out_of_memory(error)))
        sys.exit(1)
    channel.tell(Message(kind="done", stopped=stopped))
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _train(start: Start, channel: LineChannel) -> bool:
    request = start.request
    torch.set_num_threads(request.threads)  # this process does nothing else
    rank = Rank(index=start.rank, devices=devices_of(request.device))
    own = torch.device(rank.devices[rank.index])
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group(
        "nccl" if own.type == "cuda" else "gloo",
        init_method=f"file://{start.scratch}/meeting",
        rank=rank.index,
        world_size=rank.number,
    )
    checkpoints = checkpoints_of(request)
    checkpoints.read()
    if checkpoints.pieces != start.pieces:  # memory did not do since then
        checkpoints.drop_state()
    trained = train_candidate(request, channel, checkpoints=checkpoints, pieces=start.pieces, rank=rank)
    if rank.index == 0:
        save_weights(trained.candidate, Path(start.scratch) / WEIGHTS)
    return trained.stopped


if __name__ == "__main__":
    main()
