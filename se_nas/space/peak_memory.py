"""Peak memory of one inference."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def peak_memory(network: nn.Module, images: Tensor) -> int:
    """Bytes of all tensors alive at the worst moment of one inference, weights and input included."""
    if images.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(images.device)
        with torch.inference_mode():
            network(images)
        torch.cuda.synchronize(images.device)
        return int(torch.cuda.max_memory_allocated(images.device))
    fixed = sum(t.untyped_storage().nbytes() for t in (*network.parameters(), *network.buffers()))
    with torch.no_grad(), _Alive() as alive:
        network(images)
    return int(fixed + images.untyped_storage().nbytes() + alive.peak)


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Follows the bytes of the tensors that operations make and that are still referenced."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given | self._seen:
                self._follow(tensor)
        return out

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        identity, size = storage._cdata, storage.nbytes()
        self._seen.add(identity)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, identity, size)

    def _forget(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.now -= size
