"""The network that a candidate is trained as: its own, or the one that all candidates share.

Three ways, equal within rounding:

* ``plain``: every candidate runs as the ordinary network that it is.
* ``shared``: one `SharedNetwork` for all candidates of a worker; on a GPU the forward and the backward pass of its
  training batches are captured as CUDA graphs once (`torch.cuda.make_graphed_callables`).
* ``compiled``: the shared network through `torch.compile`, once for a worker.

``auto`` measures, once in a worker, the seconds of a forward and backward pass: of the plain network (mean of the one
without SE and the one with the widest SE everywhere) and, in turns with it, of each other way that may pay. A way may
pay if the share `GAIN` of all passes left in this worker takes longer than its price. The price is what the first
worker of the run measured; before that, it is a guess (`PRICE`). The fastest way is then used if it saves at least 5 %.
Capture is tried on GPUs only. A way must also prove itself: on one batch its output and its gradients have to be those
of the plain candidate. What was measured is kept in ``graphs/`` of the run folder, where other workers find it.

Networks that draw random numbers (dropout) stay plain with ``auto``: another way would draw others.
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from se_nas.backbones import build_backbone
from se_nas.data.base import DataInfo
from se_nas.errors import SeNasError, TrainingError
from se_nas.files import write_atomically
from se_nas.records import Choice, Placement, Request, checksum, from_json, to_json
from se_nas.se import insert_choices
from se_nas.shared import SharedNetwork

GAIN = {"shared": {"32": 0.5, "bf16": 0.5}, "compiled": {"32": 0.1, "bf16": 0.02}}
"""Share of a plain pass that a way may save, by precision; so much of the passes left may be spent to find out.

Of the compiler measured on a CPU: 27 % in float32, -1 to 3 % in bf16 (`experiments/graph/`). Not on a GPU.
"""
PRICE = {"shared": 2.0, "compiled": 2.0}
"""Expected seconds until a way is ready: of the capture, and of the compiler for each module with weights.

The compiler's are CPU seconds, measured with torch 2.13 for ResNet-8 and ResNet-20: 1.6 to 2.9.
"""
SAVES = 0.95
"""A way is used if a pass takes at most this share of a plain one."""
FEWEST = 1000
"""With fewer steps left than this nothing is measured: a measurement takes about ten."""
SAME = {"32": 1e-3, "bf16": 5e-2}
"""Largest relative difference, in the Euclidean norm, that counts as rounding."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a worker measured: seconds of a pass, seconds until ready, and why a way was not used."""

    way: str
    passes: dict[str, float] = field(default_factory=dict)
    price: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    modules: int = 0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network to train in place of a candidate; `finish` copies what it learned into the candidate."""

    network: nn.Module
    way: str = "plain"
    finish: Callable[[], None] = lambda: None


@dataclass
class _Warm:
    """What a worker process keeps between trials."""

    key: str = ""
    way: str = ""
    network: SharedNetwork | None = None
    decided: dict[str, str] = field(default_factory=dict)


_warm = _Warm()


def forget_network() -> None:
    """Free the shared network; the next candidate builds it again."""
    if _warm.way == "compiled":
        torch._dynamo.reset()  # it would keep the network
    _warm.key, _warm.way, _warm.network = "", "", None
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # of torch
        torch.cuda.empty_cache()


def prepare_network(candidate: nn.Module, request: Request, data: DataInfo) -> Prepared:
    """The network to train in place of a candidate, by the way that the request asks for.

    Raises
    ------
    TrainingError
        If a way was asked for by name that this network cannot go.
    """
    plain = Prepared(network=candidate)
    if request.graph == "plain" or any(c.kind == "keep" for c in request.placement.choices.values()):
        return plain
    bench = Bench(candidate, request, data)
    try:
        way = bench.choose() if request.graph == "auto" else request.graph
        if way == "plain":
            return plain
        shared = bench.ready(way)
        if not shared.fits(request.placement):  # a placement from outside the space
            return plain
        shared.take(candidate, request.placement)
    except Exception as error:  # compilers and captures raise anything
        forget_network()
        if request.graph == "auto":
            return plain
        what = error.what if isinstance(error, SeNasError) else f"{type(error).__name__}: {error}"
        raise TrainingError(f"graph {request.graph!r} cannot run this network: {what}") from error
    return Prepared(network=shared, way=way, finish=lambda: shared.give(candidate, request.placement))


class Bench:
    """Builds, measures and proves the ways of one request."""

    def __init__(self, candidate: nn.Module, request: Request, data: DataInfo) -> None:
        self.candidate, self.request, self.data = candidate, request, data
        identity = request.identity
        self.device = torch.device(request.device)
        self.bf16 = identity.precision == "bf16"
        # A data module's batches have a size of their own, which nobody knows before they come.
        known = data.kind != "module"
        self.batch = min(identity.recipe.batch_size, data.train) if known else identity.recipe.batch_size
        epochs = data.train // self.batch * identity.recipe.epochs if known else 0
        self.left = int(epochs * request.trainings_left)
        sizes = [len(data.classes), *data.input_shape, self.batch]
        formats = [self.bf16, request.channels_last, str(self.device), str(torch.__version__)]
        self.key = checksum([request.backbone, request.offered, sizes, formats])
        self.file = Path(request.folder) / "graphs" / f"{self.key}.json"

    def choose(self) -> str:
        """The way that pays, by measurements of this worker or of an earlier one."""
        if self.key in _warm.decided:
            return _warm.decided[self.key]
        if self.left < FEWEST:
            return "plain"
        self.file.parent.mkdir(exist_ok=True)
        if not self.file.is_file():
            try:
                with FileLock(self.file.with_suffix(".lock"), timeout=0):
                    if not self.file.is_file():
                        measured = self.measure()
                        if len(measured.passes) > 1 or measured.reasons:
                            write_atomically(self.file, to_json(measured, indent=2))
                        _warm.decided[self.key] = measured.way
                        return measured.way
            except Timeout:  # another worker measures just now: this candidate need not wait
                return "plain"
        measured = from_json(self.file.read_bytes(), Measured, where=str(self.file))
        way = measured.way
        if way != "plain":
            saved = (measured.passes["plain"] - measured.passes[way]) * self.left
            way = way if saved > measured.price[way] else "plain"
        _warm.decided[self.key] = way
        return way

    def measure(self) -> Measured:
        """Seconds of a pass by each way that may pay, and the best way."""
        ends = [{}, {unit: choices[0] for unit, choices in self.request.offered.items() if choices}]
        both = [self.build(choices) for choices in ends]
        plain = statistics.fmean(self.seconds(*both))
        passes, price, reasons = {"plain": plain}, {}, {}
        modules = sum(any(True for _ in m.parameters(recurse=False)) for m in self.candidate.modules())
        if self.draws():
            return Measured(way="plain", passes=passes, reasons={"all": "the network draws random numbers"})
        for way in ("shared", "compiled"):
            gain = GAIN[way]["bf16" if self.bf16 else "32"]
            guess = PRICE[way] * (modules if way == "compiled" else 1)
            if (way == "shared" and self.device.type != "cuda") or gain * plain * self.left < guess:
                continue
            start = self.spent()
            try:
                shared = self.ready(way)
                price[way] = self.spent() - start
                shared.take(self.candidate, self.request.placement)
                # Beside the plain networks: the same passes may take twice as long a minute later.
                *times, passes[way] = self.seconds(*both, shared)
                passes["plain"] = plain = statistics.fmean(times)
            except Exception as error:  # compilers and captures raise anything
                reasons[way] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        best = min(passes, key=passes.__getitem__)
        if passes[best] > SAVES * plain:
            best = "plain"
        if _warm.way != best:
            forget_network()
        return Measured(way=best, passes=passes, price=price, reasons=reasons, modules=modules)

    def ready(self, way: str) -> SharedNetwork:
        """The shared network, as this worker keeps it, made ready once."""
        if (_warm.key, _warm.way) != (self.key, way) or _warm.network is None:
            forget_network()
            if self.data.kind == "module" and way != "plain":
                raise TrainingError("the size of a data module's batches is not known")
            model = self.backbone()
            shared = SharedNetwork(model, self.request.units, self.request.offered)
            shared.settle(self.device, channels_last=self.request.channels_last)
            if not shared.fits(self.request.placement):
                return shared
            shared.take(self.candidate, self.request.placement)
            if way == "compiled":
                shared.speed_up(self.shape, _compiled(shared.network))
            elif self.device.type == "cuda":
                shared.speed_up(self.shape, self.captured(shared.network))
            self.prove(shared)
            _warm.key, _warm.way, _warm.network = self.key, way, shared
        return _warm.network

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.batch, *self.data.input_shape)

    def backbone(self) -> nn.Module:
        return build_backbone(
            self.request.backbone,
            num_classes=len(self.data.classes) or None,
            input_shape=self.data.input_shape,
            seed=self.request.identity.seed,
        )

    def build(self, choices: dict[str, Choice]) -> nn.Module:
        """A plain network on the device."""
        network = self.backbone()
        insert_choices(network, self.request.units, choices, seed=self.request.identity.seed)
        return self.settled(network)

    def settled(self, network: nn.Module) -> nn.Module:
        network.to(self.device)
        if self.request.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        return network.train()

    def images(self) -> Tensor:
        """A training batch of random images."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.shape, generator=generator).to(self.device)
        return images.contiguous(memory_format=torch.channels_last) if self.request.channels_last else images

    @contextlib.contextmanager
    def autocast(self, *, cache: bool = True) -> Iterator[None]:
        """As Lightning runs a training step."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16, cache_enabled=cache):
            yield

    def step(self, network: nn.Module, images: Tensor) -> Tensor:
        """Output of a forward pass, after the backward pass."""
        for parameter in network.parameters():
            parameter.grad = None
        if self.bf16:
            with self.autocast():
                output: Tensor = network(images)
        else:
            output = network(images)
        output.float().square().mean().backward()  # type: ignore[no-untyped-call]  # of torch
        return output.detach()

    def seconds(self, *networks: nn.Module, warm: int = 2, timed: int = 4) -> list[float]:
        """Of each network's forward and backward pass: the fastest of several, in turns.

        CPU seconds on a CPU, which others may use too.
        """
        images, times = self.images(), [math.inf] * len(networks)
        for number in range(warm + timed):
            for which, network in enumerate(networks):
                start = self.clock()
                self.step(network, images)
                if number >= warm:
                    times[which] = min(times[which], self.clock() - start)
        return times

    def clock(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def spent(self) -> float:
        """Seconds so far; on a CPU those of this process and of its compilers."""
        return sum(os.times()[:4]) if self.device.type == "cpu" else time.perf_counter()

    def draws(self) -> bool:
        """Whether a training pass of the candidate draws random numbers."""
        before = self.random_state()
        network = self.build(dict(self.request.placement.choices))
        self.step(network, self.images())
        return not torch.equal(before, self.random_state())

    def random_state(self) -> Tensor:
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def captured(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Forward and backward pass as CUDA graphs.

        Gradients lie in the graph's own memory: they have to be set to None, not added up, between steps, as
        optimizers do by default. Smaller batches of a step that is halved for memory run without the graph.
        """
        step = _Step(network).train()
        # The capture's warm-up would otherwise find caches of weights that a candidate changes later.
        with torch.cuda.device(self.device), self.autocast(cache=False):
            graphed = torch.cuda.make_graphed_callables(step, (self.images(),))

        def call(images: Tensor) -> Tensor:
            output = cast(Tensor, graphed(images))
            return output.clone()  # the next replay writes over it

        return call

    def prove(self, shared: SharedNetwork) -> None:
        """TrainingError unless the shared network gives the output and the gradients of the candidate."""
        images = self.images()
        placement: Placement = self.request.placement
        own = self.build(dict(placement.choices))
        own.load_state_dict(self.candidate.state_dict())
        shared.take(self.candidate, placement)
        shared.train()
        with _kept_random_state(self.device):
            expected = self.step(own, images)
            wanted = _norm([p.grad for p in own.parameters()])
            got = self.step(shared, images)
            grads = _norm([p.grad for p in shared.parameters()])
        limit = SAME["bf16" if self.bf16 else "32"]
        distance = float(torch.linalg.vector_norm((got - expected).float())) / max(_norm([expected]), 1e-12)
        if not distance <= limit or not abs(grads - wanted) <= limit * wanted:
            raise TrainingError(
                f"it differs from the candidate's own network by {distance:.1e} in its output and by "
                f"{abs(grads / wanted - 1):.1e} in the norm of its gradient"
            )
        for parameter in shared.parameters():
            parameter.grad = None


class _Step(nn.Module):
    """Holds a network, so that capturing changes this module's forward and not the network's."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.network(images)
        return output


def _compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    call: Callable[[Tensor], Tensor] = torch.compile(network, dynamic=False)
    return call


def _norm(tensors: list[Tensor | None]) -> float:
    squares = [float(torch.linalg.vector_norm(t.float())) ** 2 for t in tensors if t is not None]
    return math.sqrt(sum(squares))


@contextlib.contextmanager
def _kept_random_state(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
