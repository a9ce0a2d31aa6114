"""Blocks at the sites of all kinds of networks: what they compute, and that nothing else changes."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from pathlib import Path

import pytest
import torch
from networks import NETWORKS, Bottleneck, Flat, Vgg, excited, resnet
from torch import Tensor, nn
from torch.nn import functional

from se_nas.core.errors import SpaceError
from se_nas.core.placement import KEEP, NONE, POSITIONS, Choice, Site, Unit
from se_nas.insertion.block import SEBlock
from se_nas.insertion.discover import find_units
from se_nas.insertion.insert import insert_block, insert_choices

SHAPE = (3, 24, 24)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@functools.cache
def found(name: str) -> tuple[nn.Module, tuple[Unit, ...]]:
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    return model, find_units(model, SHAPE)


def built(name: str) -> tuple[nn.Module, tuple[Unit, ...]]:
    """A network in eval mode, the same at every call, and its units."""
    model, units = found(name)
    return copy.deepcopy(model), units


def everywhere(
    units: tuple[Unit, ...], position: str = "standard", reduction: float = 2, **settings: object
) -> dict[str, Choice]:
    chosen = [unit for unit in units if any(site.position == position for site in unit.sites)]
    return {
        unit.name: Choice.se(unit.site(position).channels, reduction, position=position, **{"init": "plain"} | settings)
        for unit in chosen
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_identity_start_leaves_the_output_and_every_block_runs(name: str) -> None:
    given, units = built(name)
    plain = copy.deepcopy(given)
    insert_choices(plain, units, {}, seed=0)  # without the SE blocks that it had
    for position in POSITIONS:
        model = copy.deepcopy(given)
        choices = everywhere(units, position, init=None)
        assert {choice.init for choice in choices.values()} <= {"identity"}, "the default"
        insert_choices(model, units, choices, seed=0)
        blocks = [module for module in model.modules() if isinstance(module, SEBlock)]
        assert len(blocks) == len(choices)
        calls: list[nn.Module] = []
        for block in blocks:
            block.register_forward_hook(lambda module, *_, calls=calls: calls.append(module))
        assert torch.equal(model(images()), plain(images())), position
        assert len(calls) == sum(unit.site(position).uses for unit in units if unit.name in choices)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_works_and_reaches_every_block(name: str) -> None:
    given, units = built(name)
    for position in POSITIONS:
        torch.manual_seed(0)
        model = copy.deepcopy(given).train()
        insert_choices(model, units, everywhere(units, position, 0.25, init="identity"), seed=0)
        blocks = [module for module in model.modules() if isinstance(module, SEBlock)]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            output = model(images(4))
            output = output.flatten(2).mean(2) if output.dim() > 2 else output
            functional.cross_entropy(output, torch.arange(4)).backward()
            optimizer.step()
        # The last layers started at zero.
        assert all(block.fc2.weight.abs().sum() > 0 for block in blocks), position


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("excited")])
def test_backbone_weights_names_and_class_stay(name: str) -> None:
    plain, units = built(name)
    model = copy.deepcopy(plain)
    insert_choices(model, units, {unit.name: NONE for unit in units}, seed=0)
    assert torch.equal(model(images()), plain(images()))
    insert_choices(model, units, everywhere(units), seed=0)
    assert isinstance(model, type(plain))
    assert type(model).__name__ == type(plain).__name__
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in plain.state_dict().items())
    assert model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys == []
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not torch.equal(model(images()), plain(images()))


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "concurrent"])  # whose class is local
def test_copies_and_pickles_are_the_same_network(name: str) -> None:
    model, units = built(name)
    insert_choices(model, units, everywhere(units), seed=0)
    expected = model(images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images()), expected)
        assert twin.state_dict().keys() == model.state_dict().keys()
        for parameter in twin.parameters():
            parameter.data.zero_()
    assert torch.equal(model(images()), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_candidate_has_its_blocks_recognised(name: str) -> None:
    model, units = built(name)
    insert_choices(model, units, everywhere(units), seed=0)
    again = find_units(model, SHAPE)
    assert len(again) == len(units)
    assert all(unit.existing is not None for unit in again)
    assert [unit.sites[0].uses for unit in again] == [unit.sites[0].uses for unit in units]


def reference(block: Bottleneck, se: SEBlock, x: Tensor, position: str) -> Tensor:
    """The block with SE as section 6.5 of the paper draws it (figure 5)."""
    relu = functional.relu
    out = relu(block.n1(block.c1(se(x) if position == "pre" else x)))
    out = block.n2(block.c2(out))
    out = block.n3(block.c3(relu(se(out) if position == "inner" else out)))
    identity = x if block.down is None else block.down(x)
    if position == "standard":
        out = se(out)
    if position == "identity":
        identity = se(identity)
    out = relu(out + identity)
    return se(out) if position == "post" else out


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("position", [position for position in POSITIONS if position != "family"])
def test_positions_compute_what_the_paper_draws(position: str, number: int) -> None:
    model, units = built("resnet")
    plain = copy.deepcopy(model)
    unit = units[number - 1]
    insert_block(model, unit.site(position), everywhere(units, position)[unit.name], seed=3)
    (se,) = (module for module in model.modules() if isinstance(module, SEBlock))
    body, plain_body = model.get_submodule("body"), plain.get_submodule("body")
    assert isinstance(body, nn.Sequential)
    assert isinstance(plain_body, nn.Sequential)
    with torch.no_grad():
        x = plain_body[:number](images())
        block = plain_body[number]
        assert isinstance(block, Bottleneck)
        assert torch.equal(body[number](x), reference(block, se, x, position))


def test_functional_chain_is_rescaled_before_its_pooling() -> None:
    model, units = built("vgg")
    plain = copy.deepcopy(model)
    assert isinstance(plain, Vgg)
    insert_choices(model, units, everywhere(units), seed=0)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, SEBlock)}
    assert list(blocks) == ["se_conv1", "se_conv2", "se_conv3"]
    x = images()
    for layer, block in zip((plain.conv1, plain.conv2), list(blocks.values())[:2], strict=True):
        x = functional.max_pool2d(block(functional.relu(layer(x))), 2)
    x = blocks["se_conv3"](functional.relu(functional.max_pool2d(plain.conv3(x), 2)))
    assert torch.equal(model(images()), plain.fc(x.amax((2, 3))))


def test_two_units_in_one_method() -> None:
    model, units = built("flat")
    assert isinstance(model, Flat)
    plain = copy.deepcopy(model)
    first, second = units
    choices = {
        first.name: Choice.se(8, 2, position="identity", init="identity"),
        second.name: Choice.se(8, 2, position="post", init="identity"),
    }
    insert_choices(model, units, choices, seed=0)
    assert torch.equal(model(images()), plain(images()))
    assert [name for name, _ in model.named_children()][-2:] == ["se_b", "se_c"]


@pytest.mark.parametrize("way", ["expand", "gate", "inline"])
def test_existing_blocks_are_kept_removed_or_replaced(way: str) -> None:
    given = excited(way).eval()
    units = find_units(given, SHAPE)
    count = sum(parameter.numel() for parameter in given.parameters())
    own = 2 * sum(p.numel() for layer in (nn.Linear(8, 4), nn.Linear(4, 8)) for p in layer.parameters())

    kept = copy.deepcopy(given)
    insert_choices(kept, units, {unit.name: KEEP for unit in units}, seed=0)
    assert torch.equal(kept(images()), given(images()))

    bare = copy.deepcopy(given)
    insert_choices(bare, units, {}, seed=0)
    assert sum(parameter.numel() for parameter in bare.parameters()) == count - own
    assert all(unit.existing is None for unit in find_units(bare, SHAPE))

    other = copy.deepcopy(given)
    insert_choices(other, units, everywhere(units, init="identity", bias=True), seed=0)
    assert torch.equal(other(images()), bare(images()))
    assert sum(parameter.numel() for parameter in other.parameters()) == count
    other.train()(images()).sum().backward()


def test_a_block_without_module_or_place_can_only_be_kept() -> None:
    site = Site(unit="u", position="standard", module="body.2", channels=8, size=(24, 24), edge="inline")
    unit = Unit(name="u", stage="s", sites=(site,), existing="body.2")
    insert_choices(excited("inline"), (unit,), {"u": KEEP}, seed=0)
    with pytest.raises(SpaceError, match="without a module of its own"):
        insert_choices(excited("inline"), (unit,), {}, seed=0)


def test_wrong_choices() -> None:
    model, units = built("resnet")
    with pytest.raises(SpaceError, match="does not have"):
        insert_choices(model, units, {"body.7": NONE}, seed=0)
    with pytest.raises(SpaceError, match="no SE block that could be kept"):
        insert_choices(model, units, {"body.1": KEEP}, seed=0)
    insert_block(model, units[0].sites[0], Choice.se(8, 2), seed=0)
    with pytest.raises(SpaceError, match="has an SE block already"):
        insert_block(model, units[0].sites[0], Choice.se(8, 2), seed=0)


def test_a_container_that_would_run_the_block_as_a_child_is_refused() -> None:
    site = Site(unit="u", position="standard", module="body", channels=16, size=(12, 12))
    with pytest.raises(SpaceError, match="runs through its children"):
        insert_block(resnet(), site, Choice.se(16, 2), seed=0)


def test_same_seed_and_unit_give_the_same_weights() -> None:
    weights = []
    for position, seed in (("standard", 0), ("post", 0), ("standard", 1)):
        model, units = built("resnet")
        insert_choices(model, units, everywhere(units, position), seed=seed)
        weights.append(next(p for name, p in model.named_parameters() if ".fc1." in name))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_half_precision() -> None:
    model = resnet().half().eval()
    units = find_units(model, SHAPE)
    insert_choices(model, units, everywhere(units), seed=0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert model(images().half()).dtype == torch.float16


# What else runs networks


def candidate(name: str) -> nn.Module:
    model, units = built(name)
    insert_choices(model, units, everywhere(units, gate="hard_sigmoid"), seed=0)
    return model


MECHANISMS = ["resnet", "vgg", "flat", "excited-gate", "excited-inline", "convnext", "private", "concurrent"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compile_and_export(name: str) -> None:
    model = candidate(name)
    expected = model(images())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), expected)
    exported = torch.export.export(model, (images(),)).module()
    torch.testing.assert_close(exported(images()), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.filterwarnings("ignore")  # those of the exporter
def test_onnx_export(name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = candidate(name)
    file = io.BytesIO()
    torch.onnx.export(model, (images(),), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    (output,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_distributed_data_parallel(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for name in MECHANISMS:
            model = candidate(name).train()
            nn.parallel.DistributedDataParallel(model)(images(4)).sum().backward()
            assert all(parameter.grad is not None for parameter in model.parameters()), name
    finally:
        torch.distributed.destroy_process_group()
