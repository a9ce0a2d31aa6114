"""Networks that start from a checkpoint: reading weights without running code, and fitting them to a backbone."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from se_nas.backbones.adapt import CONVOLUTIONS, fitted_channels
from se_nas.core.errors import BackboneError, did_you_mean

Weights = dict[str, Tensor]

_NESTED = ("state_dict", "model_state_dict", "state_dict_ema", "model", "network", "net", "weights", "module")
"""Where checkpoints keep the weights beside other things."""

_HARMLESS: list[Any] = [argparse.Namespace]
"""Types of plain data that training scripts keep beside the weights: reading them runs no code of the file."""

SHOWN = 4
"""So many keys are named where keys do not fit."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Weights under the names of a network, and what was done to make them fit."""

    weights: Weights
    notes: tuple[str, ...] = ()


def read_weights(file: Path) -> Weights:
    """The tensors of a checkpoint by name: `read_checkpoint` without its notes."""
    return read_checkpoint(str(file)).weights


def read_checkpoint(given: str) -> Fitted:
    """The tensors of a checkpoint by name: safetensors, a state dict of torch, or a checkpoint that holds one.

    ``FILE#NAME`` takes the state dict of this name, where a checkpoint has several, such as that of the averaged
    weights: ``last.pth.tar#state_dict_ema``. The notes say which one was taken where there was a choice.

    BackboneError if the file is missing, is none of these, holds objects that could run code, or nothing of that name.
    """
    path, _, part = given.rpartition("#") if "#" in given and not Path(given).is_file() else (given, "", "")
    file = Path(path)
    if not file.is_file():
        raise BackboneError(f"there is no weights file {path!r}", hint="give --weights FILE")
    content = _content(file)
    names = _choices(content)
    if part and part not in names:
        raise BackboneError(
            f"there are no weights named {part!r} in {path!r}", allowed=names or ["FILE alone"],
            hint=did_you_mean(part, names),
        )  # fmt: skip
    chosen = part or next((name for name in _NESTED if name in names), None)
    found = _state_dict(content[chosen] if chosen else content)
    if not found:
        raise BackboneError(f"there are no weights in {path!r}", hint="give a state dict")
    others = [name for name in names if name != chosen]
    note = f"{chosen} is taken, not {' or '.join(others)}: {file.name}#{others[0]} takes that" if others else None
    return Fitted(weights=found, notes=(note,) if note and not part else ())


def _content(file: Path) -> Any:
    """What a file holds, read without running code of it."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore", UserWarning)  # of pickles that it refuses a line later
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BackboneError(
            f"{str(file)!r} is not a weights file, or holds more than weights: reading it could run foreign code",
            hint="save the weights alone: torch.save(network.state_dict(), FILE) or safetensors",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise BackboneError(
            f"cannot read the weights {str(file)!r}: {reason}", allowed=[".safetensors", ".pt, .pth, .ckpt of torch"]
        ) from error


def _choices(content: Any) -> list[str]:
    """Names under which a checkpoint has state dicts, beside other things."""
    if not isinstance(content, Mapping):
        return []
    return [str(name) for name, value in content.items() if isinstance(value, Mapping) and _state_dict(value)]


def _state_dict(content: Any) -> Weights:
    """The tensors of a checkpoint, which may lie deeper; empty if there are none."""
    if not isinstance(content, Mapping):
        return {}
    nested = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), None)
    if nested is not None:
        return _state_dict(nested)
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def fit_weights(model: nn.Module, weights: Weights, *, num_classes: int | None, where: str) -> Fitted:
    """The weights under the names of a network, with those of its last layer left out if it has other classes.

    A prefix that all names have more than the network's, such as ``model.`` in Lightning's checkpoints, goes, and what
    lies outside of it (a loss, a teacher) is left out. A first convolution for another number of channels is
    converted as `adapt_input` does.

    Raises
    ------
    BackboneError
        With the first of the names, for anything else that does not fit.
    """
    own = model.state_dict()
    strip, add = _prefixes(weights, own)
    named = {add + name[len(strip) :]: value for name, value in weights.items() if name.startswith(strip)}
    heads = _heads(model, num_classes)
    first = next((f"{path}.weight" for path, m in model.named_modules() if isinstance(m, CONVOLUTIONS)), None)
    fitted: Weights = {}
    dropped, wrong = [], []
    notes = [f"names without the prefix {strip!r}"] * bool(strip)
    if outside := len(weights) - len(named):
        notes.append(f"{outside} tensors outside {strip!r} are left out")
    for name, value in named.items():
        if name not in own:
            wrong.append(f"{name} (the network has none)")
        elif value.shape == own[name].shape:
            fitted[name] = value
        elif name == first and value.shape[2:] == own[name].shape[2:] and len(value) == len(own[name]):
            fitted[name] = fitted_channels(value, own[name].shape[1])
            notes.append(f"{name} is converted from {value.shape[1]} to {own[name].shape[1]} channels")
        elif name in heads and value.shape[1:] == own[name].shape[1:]:
            dropped.append(name)
        else:
            wrong.append(f"{name} {tuple(value.shape)} (the network has {tuple(own[name].shape)})")
    lacking = [n for n in own if n not in named and not n.endswith("num_batches_tracked")]
    dropped += [name for name in lacking if name in heads]
    wrong += [f"{name} (the file has none)" for name in lacking if name not in heads]
    if wrong or not fitted:
        raise BackboneError(
            f"the weights do not fit {type(model).__name__}: {len(wrong)} names or shapes differ: "
            + "; ".join(wrong[:SHOWN]),
            where=where,
            hint="were they saved from the same network?",
        )
    if dropped:
        notes.append(f"the last layer is re-initialised for {num_classes} classes ({', '.join(dropped)})")
    return Fitted(weights=fitted, notes=tuple(notes))


def _heads(model: nn.Module, num_classes: int | None) -> set[str]:
    """Names of the parameters of layers that give as many outputs as there are classes."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and module.weight.shape[0] == num_classes
        for name, _ in module.named_parameters(recurse=False)
    }


def _prefixes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, str]:
    """What to take from the front of the file's names and what to put there, so that most names are the network's."""
    counts: Counter[tuple[str, str]] = Counter({("", ""): len(weights.keys() & own.keys())})
    for name in weights:
        for rest in _ends(name):
            counts[name[: -len(rest)], ""] += rest in own
    for name in own:
        for rest in _ends(name):
            counts["", name[: -len(rest)]] += rest in weights
    return max(counts, key=lambda pair: (counts[pair], -len(pair[0]) - len(pair[1])))


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(1, len(parts))]


def start_from(model: nn.Module, file: Path) -> None:
    """Give a network the weights of a file that `fit_weights` made; what the file lacks stays as it is."""
    model.load_state_dict(safetensors.torch.load_file(file), strict=False)


def weights_checksum(network: nn.Module) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a network's state dict."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
