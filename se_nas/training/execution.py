"""The network that a candidate is trained as: its own, or the one that all candidates share.

Three ways, equal within rounding:

* ``plain``: every candidate runs as the ordinary network that it is.
* ``shared``: one `SharedNetwork` for all candidates of a worker; on a GPU the forward and the backward pass of its
  training batches are captured as CUDA graphs once (`torch.cuda.make_graphed_callables`).
* ``compiled``: the shared network through `torch.compile`, once for a worker.

The shared network must prove itself before it is used: on one batch its output and its gradients have to be those of
the plain candidate. A network that draws random numbers (dropout) fails this proof, since it would draw others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from se_nas.backbones.build import build_backbone
from se_nas.core.errors import TrainingError, reason_of
from se_nas.core.serialization import checksum
from se_nas.core.trial import Request
from se_nas.data.base import DataInfo
from se_nas.insertion.insert import insert_choices
from se_nas.training.supernet import SharedNetwork

SAME = {"32": 1e-3, "bf16": 5e-2}
"""Largest relative difference, in the Euclidean norm, that counts as rounding."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A network to train in place of a candidate; `finish` copies what it learned into the candidate."""

    network: nn.Module
    way: str = "plain"
    finish: Callable[[], None] = lambda: None


@dataclass
class _Warm:
    """What a worker process keeps between trials: its shared network, and what that was made for."""

    key: str = ""
    way: str = ""
    network: SharedNetwork | None = None


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
        If this network cannot run in the way that was asked for.
    """
    plain = Prepared(network=candidate)
    if request.graph == "plain" or any(c.kind == "keep" for c in request.placement.choices.values()):
        return plain
    try:
        shared = SharedRun(candidate, request, data).network()
        if not shared.fits(request.placement):  # a placement from outside the space
            return plain
        shared.take(candidate, request.placement)
    except Exception as error:  # compilers and captures raise anything
        forget_network()
        raise TrainingError(f"graph {request.graph!r} cannot run this network: {reason_of(error)}") from error
    return Prepared(network=shared, way=request.graph, finish=lambda: shared.give(candidate, request.placement))


class SharedRun:
    """Builds and proves the shared network for one request, or finds the one of this worker."""

    def __init__(self, candidate: nn.Module, request: Request, data: DataInfo) -> None:
        if data.kind == "module":
            raise TrainingError("the size of a data module's batches is not known")
        self.candidate, self.request, self.data = candidate, request, data
        self.device = torch.device(request.device)
        self.precision = request.identity.precision
        self.shape = (min(request.identity.recipe.batch_size, data.train), *data.input_shape)
        formats = [self.precision, request.channels_last, request.device, str(torch.__version__)]
        self.key = checksum([request.graph, request.backbone, request.offered, len(data.classes), self.shape, formats])

    def network(self) -> SharedNetwork:
        """The shared network, as this worker keeps it, made ready once."""
        if _warm.key != self.key or _warm.network is None:
            forget_network()
            shared = SharedNetwork(self.backbone(), self.request.units, self.request.offered)
            shared.settle(self.device, channels_last=self.request.channels_last)
            if not shared.fits(self.request.placement):
                return shared
            shared.take(self.candidate, self.request.placement)
            if self.request.graph == "compiled":
                shared.speed_up(self.shape, _compiled(shared.network))
            elif self.device.type == "cuda":
                shared.speed_up(self.shape, self.captured(shared.network))
            self.prove(shared)
            _warm.key, _warm.way, _warm.network = self.key, self.request.graph, shared
        return _warm.network

    def backbone(self) -> nn.Module:
        return build_backbone(
            self.request.backbone,
            num_classes=len(self.data.classes) or None,
            input_shape=self.data.input_shape,
            seed=self.request.identity.seed,
        )

    def own(self) -> nn.Module:
        """A copy of the candidate on the device, in training mode."""
        network = self.backbone()
        request = self.request
        insert_choices(network, request.units, request.placement.choices, seed=request.identity.seed)
        network.load_state_dict(self.candidate.state_dict())
        network.to(self.device)
        if request.channels_last:
            network.to(memory_format=torch.channels_last)
        return network.train()

    def images(self) -> Tensor:
        """A training batch of random images."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.shape, generator=generator).to(self.device)
        return images.contiguous(memory_format=torch.channels_last) if self.request.channels_last else images

    def autocast(self, *, cache: bool = True) -> torch.autocast:
        """As Lightning runs a training step."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=cache)

    def step(self, network: nn.Module, images: Tensor) -> Tensor:
        """Output of a forward pass, after the backward pass."""
        for parameter in network.parameters():
            parameter.grad = None
        with self.autocast() if self.precision == "bf16" else contextlib.nullcontext():
            output: Tensor = network(images)
        output.float().square().mean().backward()  # type: ignore[no-untyped-call]  # of torch
        return output.detach()

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
        images, own = self.images(), self.own()
        shared.take(self.candidate, self.request.placement)
        shared.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            expected, got = self.step(own, images).float(), self.step(shared, images).float()
        wanted, grads = _gradient_norm(own), _gradient_norm(shared)
        limit = SAME[self.precision]
        distance = float((got - expected).norm()) / max(float(expected.norm()), 1e-12)
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


def _gradient_norm(network: nn.Module) -> float:
    return float(nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
