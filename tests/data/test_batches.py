"""Batches: order, normalisation and augmentation, each from a random stream of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import until
from hypothesis import given, settings
from hypothesis import strategies as st

from se_nas.data.base import Part
from se_nas.data.batches import Batches, Shuffle, ahead, augmented

CPU = torch.device("cpu")


def part(n: int = 20, size: tuple[int, ...] = (4, 4), channels: int = 1) -> Part:
    """Images that are known by their label: every pixel of image i is i."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8).reshape(-1, 1, *[1] * len(size)), (n, channels, *size))
    return Part(images=images.copy(), labels=np.arange(n))


def batches(data: Part, **changes: Any) -> Batches:
    training = {name: changes.pop(name) for name in ("seed", "augment", "pieces") if name in changes}
    settings: dict[str, Any] = {"batch_size": 6, "mean": [0.0], "std": [1.0], "device": CPU}
    return Batches(data, shuffle=Shuffle(**training) if training else None, **{**settings, **changes})


def labels(epoch: Batches) -> list[int]:
    return torch.cat([y for _, y in epoch]).tolist()


class TestOrder:
    def test_validation_is_everything_as_stored(self) -> None:
        loader = batches(part())
        assert [len(y) for _, y in loader] == [6, 6, 6, 2]
        assert len(loader) == 4
        assert labels(loader) == list(range(20)) == labels(loader)

    def test_training_is_shuffled_without_the_incomplete_batch(self) -> None:
        loader = batches(part(), seed=0)
        assert len(loader) == 3
        first, second = labels(loader), labels(loader)
        assert len(first) == 18
        assert len(set(first)) == 18
        assert first != second
        assert first != sorted(first)

    @pytest.mark.parametrize("augment", ["none", "shift", "shift-flip"])
    def test_order_depends_on_seed_and_epoch_alone(self, augment: str) -> None:
        one, two = batches(part(), seed=3, augment=augment), batches(part(), seed=3)
        assert [labels(one) for _ in range(3)] == [labels(two) for _ in range(3)]
        assert labels(batches(part(), seed=3)) != labels(batches(part(), seed=4))

    def test_images_and_labels_stay_together(self) -> None:
        for images, y in batches(part(), seed=1):
            assert torch.equal(images[:, 0, 0, 0].long(), y)

    def test_the_global_stream_is_left_alone(self) -> None:
        torch.manual_seed(1)
        expected = torch.rand(2)
        torch.manual_seed(1)
        labels(batches(part(), seed=1, augment="shift-flip"))
        assert torch.equal(torch.rand(2), expected)

    def test_a_batch_larger_than_the_part_is_the_part(self) -> None:
        loader = batches(part(5), seed=0, batch_size=100)
        assert sorted(labels(loader)) == list(range(5))


class TestNormalisation:
    def test_mean_and_std_by_channel(self) -> None:
        generator = np.random.default_rng(0)
        data = Part(images=generator.integers(0, 255, (50, 3, 5, 5)).astype(np.uint8), labels=np.arange(50))
        mean, std = data.images.mean((0, 2, 3)), data.images.std((0, 2, 3))
        images = torch.cat([x for x, _ in batches(data, mean=mean.tolist(), std=std.tolist())])
        assert images.dtype == torch.float32
        torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)

    def test_memory_format(self) -> None:
        x, _ = next(iter(batches(part(channels=3), mean=[0] * 3, std=[1] * 3, channels_last=True)))
        assert x.is_contiguous(memory_format=torch.channels_last)
        x, _ = next(iter(batches(part(channels=3), mean=[0] * 3, std=[1] * 3, channels_last=True, seed=0,
                                 augment="shift-flip")))  # fmt: skip
        assert x.is_contiguous(memory_format=torch.channels_last)


def by_hand(image: torch.Tensor, dy: int, dx: int, *, flip: bool) -> torch.Tensor:
    """The image mirrored, then moved so that out[y, x] = image[y + dy, x + dx], zeros from outside."""
    source = image.flip(-1) if flip else image
    height, width = image.shape[-2:]
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[:, y, x] = source[:, y + dy, x + dx]
    return out


class TestAugmentation:
    @settings(max_examples=25)
    @given(
        kind=st.sampled_from(["shift", "shift-flip"]),
        height=st.integers(1, 20),
        width=st.integers(1, 20),
        seed=st.integers(0, 1000),
    )
    def test_every_image_is_a_shifted_and_perhaps_mirrored_one(
        self, kind: str, height: int, width: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(3, 2, height, width, generator=generator) + 1
        moved = augmented(images, kind, generator)
        assert moved.shape == images.shape
        reach_y, reach_x = max(1, height // 8), max(1, width // 8)
        for before, after in zip(images, moved, strict=True):
            options = [
                by_hand(before, dy, dx, flip=flip)
                for dy in range(-reach_y, reach_y + 1)
                for dx in range(-reach_x, reach_x + 1)
                for flip in ((False, True) if kind == "shift-flip" else (False,))
            ]
            mirrored_after = [
                by_hand(before, dy, -dx, flip=False).flip(-1)
                for dy in range(-reach_y, reach_y + 1)
                for dx in range(-reach_x, reach_x + 1)
            ]
            if kind == "shift-flip":
                options += mirrored_after
            assert any(torch.equal(option, after) for option in options)

    def test_all_shifts_and_both_sides_occur(self) -> None:
        image = torch.arange(1.0, 65).reshape(1, 1, 8, 8).expand(400, 1, 8, 8)
        moved = augmented(image, "shift-flip", torch.Generator().manual_seed(0))
        kinds = {tuple(m.ravel().tolist()) for m in moved}
        assert len(kinds) == 3 * 3 * 2
        moved = augmented(image, "shift", torch.Generator().manual_seed(0))
        assert len({tuple(m.ravel().tolist()) for m in moved}) == 9

    def test_none_is_nothing(self) -> None:
        images = torch.rand(3, 1, 4, 4)
        assert augmented(images, "none", torch.Generator()) is images

    def test_volumes(self) -> None:
        images = torch.rand(5, 1, 4, 4, 4) + 1
        moved = augmented(images, "shift", torch.Generator().manual_seed(0))
        assert moved.shape == images.shape
        assert (moved == 0).any()

    def test_own_stream_for_each_epoch(self) -> None:
        data = Part(
            images=np.random.default_rng(0).integers(1, 255, (32, 1, 8, 8)).astype(np.uint8), labels=np.arange(32)
        )

        def epochs(seed: int, number: int = 2) -> list[torch.Tensor]:
            loader = batches(data, seed=seed, augment="shift-flip", batch_size=32)
            found = []
            for _ in range(number):
                ((images, y),) = list(loader)
                found.append(images[y.argsort()])
            return found

        one, two = epochs(0), epochs(0)
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        assert not torch.equal(one[0], one[1])
        assert not torch.equal(one[0], epochs(1)[0])


class TestPieces:
    @pytest.mark.parametrize("pieces", [1, 2, 3, 6])
    def test_the_same_images_alike_in_smaller_batches(self, pieces: int) -> None:
        whole = list(batches(part(), seed=5, augment="shift-flip"))
        loader = batches(part(), seed=5, augment="shift-flip", pieces=pieces)
        cut = list(loader)
        assert len(cut) == len(loader) == 3 * pieces
        assert {len(y) for _, y in cut} == {6 // pieces}
        assert torch.equal(torch.cat([x for x, _ in cut]), torch.cat([x for x, _ in whole]))
        assert torch.equal(torch.cat([y for _, y in cut]), torch.cat([y for _, y in whole]))

    def test_unequal_pieces_are_refused(self) -> None:
        with pytest.raises(ValueError, match="a batch of 6 cannot be cut into 4 equal pieces"):
            batches(part(), seed=0, pieces=4)


class TestAhead:
    @pytest.mark.parametrize("depth", [0, 1, 2, 50])
    def test_is_map(self, depth: int) -> None:
        assert list(ahead(lambda n: n * n, range(20), depth)) == [n * n for n in range(20)]

    def test_runs_ahead_and_no_further(self) -> None:
        made: list[int] = []
        results = ahead(lambda n: made.append(n) or n, range(10), 2)
        assert next(results) == 0
        until(lambda: made == [0, 1, 2], timeout=5, what="three results")
        assert next(results) == 1
        until(lambda: made == [0, 1, 2, 3], timeout=5, what="one result more")
        assert list(results) == list(range(2, 10))

    def test_errors_arrive(self) -> None:
        with pytest.raises(ZeroDivisionError):
            list(ahead(lambda n: 1 // n, [1, 0], 2))


@pytest.mark.gpu
def test_parts_that_do_not_fit_are_fetched_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:0")
    resident = [(x.cpu(), y.cpu()) for x, y in batches(part(), seed=0, device=device, augment="shift")]
    monkeypatch.setattr("se_nas.data.batches.RESIDENT_SHARE", 0.0)
    fetched = list(batches(part(), seed=0, device=device, augment="shift"))
    assert all(x.device.type == "cuda" for x, _ in fetched)
    for (x, y), (a, b) in zip(resident, fetched, strict=True):
        assert torch.equal(x, a.cpu())
        assert torch.equal(y, b.cpu())
