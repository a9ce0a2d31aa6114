"""A U-Net and a user's own LightningModule on generated masks: searched, confirmed, exported, loaded.

python experiments/segmentation/run.py [--budget 12] [--epochs 12] [--seeds 3]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import se_nas

HERE = Path(__file__).resolve().parent


def write_masks(file: Path, *, number: int, side: int = 32, seed: int = 0) -> Path:
    """Discs among squares, both as bright, on noise with a slope: the discs are the mask."""
    generator = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    images = generator.normal(100, 35, (number, side, side)) + generator.normal(0, 1.5, (number, 1, 1)) * x
    masks = np.zeros((number, side, side), dtype=np.uint8)
    for image, mask in zip(images, masks, strict=True):
        for round_ in (True, True, False, False):
            (cy, cx), r = generator.uniform(4, side - 4, 2), generator.uniform(2.5, 6)
            disc, square = (y - cy) ** 2 + (x - cx) ** 2 < r**2, (abs(y - cy) < 0.85 * r) & (abs(x - cx) < 0.85 * r)
            shape = disc if round_ else square
            image += 45 * shape
            mask[shape] = round_
    np.savez(file, x=images.clip(0, 255).astype(np.uint8), y=masks)
    return file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = write_masks(Path(folder) / "masks.npz", number=given.number)
        start = time.perf_counter()
        result = se_nas.search(
            backbone=f"{HERE / 'segmenter.py'}:UNet",
            data=f"npz:{file}",
            task=f"{HERE / 'segmenter.py'}:LitSegmenter",
            space={"reductions": ["none", 8, 4], "init": "plain"},
            budget=given.budget,
            epochs=given.epochs,
            batch_size=16,
            augment="shift-flip",
            workers=given.workers,
            out=str(Path(folder) / "run"),
            on_trial=lambda trial: print(trial.number, trial.placement.label, trial.state, trial.seconds, flush=True),
        )
        searched = time.perf_counter() - start
        print("\n".join(result.summary.gained))
        result.trials.drop(columns=["device", "commit", "versions"]).to_csv(HERE / "trials.csv", index=False)
        confirmed = se_nas.confirm(result.folder, top=2, seeds=given.seeds)
        print("\n".join(sentence.text for sentence in confirmed.verdict.sentences))
        with (HERE / "confirmed.csv").open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["placement", "role", "params", "validation", "test", "test_low", "test_high", "seeds"])
            for n in confirmed.networks:
                low, high = n.test.interval if n.test is not None and n.test.interval else ("", "")
                writer.writerow(
                    [n.label, n.role, int(n.costs["params"].value), n.validation.mean,
                     "" if n.test is None else n.test.mean, low, high, len(n.trials)]
                )  # fmt: skip
        network = se_nas.load(result.folder / "best")
        output = network(torch.zeros(1, 1, 32, 32))
        print(f"exported and loaded: {tuple(output.shape)}")
        print(f"{searched:.0f} s for the search, {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
