"""The picture of docs/concepts.md: python docs/picture.py writes docs/picture.svg."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

GIVEN, KNOWN, TRAINED, RESULT = "#e8eef7", "#e6f4ec", "#fdf0e3", "#f3e8f5"
BOXES = {
    "backbone": (0.2, 8.6, 2.6, "backbone", "any nn.Module", GIVEN),
    "data": (0.2, 3.8, 2.6, "data", "images, labels", GIVEN),
    "spec": (3.2, 8.6, 2.6, "search space", "a YAML file, or built in", GIVEN),
    "sites": (0.2, 7.0, 2.6, "sites", "where SE fits", KNOWN),
    "space": (3.2, 7.0, 2.6, "space", "all placements", KNOWN),
    "costs": (6.2, 7.0, 2.6, "exact cost", "of every placement", KNOWN),
    "propose": (3.2, 5.4, 2.6, "propose", "Optuna: ask", TRAINED),
    "train": (3.2, 3.8, 2.6, "train", "Lightning, or your loop;\nprocesses, GPUs, Ray", TRAINED),
    "study": (6.2, 3.8, 2.6, "study", "Optuna: tell; SQLite,\nPostgreSQL", TRAINED),
    "posterior": (6.2, 5.4, 2.6, "model estimate", "from all trainings", TRAINED),
    "front": (3.2, 2.2, 2.6, "Pareto front", "accuracy vs. cost", RESULT),
    "confirm": (0.2, 2.2, 2.6, "confirm", "fresh seeds, test set", RESULT),
    "verdict": (0.2, 0.6, 2.6, "verdict", "use it / not worth it /\nundecided", RESULT),
    "report": (3.2, 0.6, 2.6, "report", "one page", RESULT),
    "export": (6.2, 0.6, 2.6, "export", "proven equal, folded", RESULT),
}
ARROWS = [
    ("backbone", "sites"), ("spec", "space"), ("sites", "space"), ("space", "costs"), ("space", "propose"),
    ("costs", "posterior"), ("posterior", "propose"), ("propose", "train"), ("data", "train"), ("train", "study"),
    ("study", "posterior"), ("study", "front"), ("front", "confirm"), ("confirm", "verdict"), ("front", "report"),
    ("front", "export"),
]  # fmt: skip
HEIGHT = 1.05


def _box(axes: Axes, name: str) -> None:
    x, y, width, title, text, color = BOXES[name]
    shape = FancyBboxPatch((x, y), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.12", fc=color, ec="#8a94a3")
    axes.add_patch(shape)
    axes.text(x + width / 2, y + 0.77, title, ha="center", va="center", fontsize=11, weight="bold", color="#1d2430")
    axes.text(x + width / 2, y + 0.34, text, ha="center", va="center", fontsize=8.5, color="#48525f")


def _arrow(axes: Axes, start: str, end: str) -> None:
    (ax, ay, aw, *_), (bx, by, bw, *_) = BOXES[start], BOXES[end]
    if ay == by:  # beside each other
        right = bx > ax
        points = (ax + aw if right else ax, ay + HEIGHT / 2), (bx if right else bx + bw, by + HEIGHT / 2)
    else:
        down = by < ay
        points = (ax + aw / 2, ay if down else ay + HEIGHT), (bx + bw / 2, by + HEIGHT if down else by)
    style = {"arrowstyle": "-|>", "color": "#5b6675", "lw": 1.3, "shrinkA": 1, "shrinkB": 1}
    axes.annotate("", xy=points[1], xytext=points[0], arrowprops=style)


def draw(file: Path) -> None:
    with rc_context({"svg.hashsalt": "se-nas", "svg.fonttype": "path"}):
        figure = Figure(figsize=(7.2, 7.6))
        axes = figure.add_axes((0, 0, 1, 1))
        for name in BOXES:
            _box(axes, name)
        for start, end in ARROWS:
            _arrow(axes, start, end)
        axes.set(xlim=(0, 9), ylim=(0.4, 9.9))
        axes.set_axis_off()
        figure.savefig(file, bbox_inches="tight", pad_inches=0.08, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(__file__).with_name("picture.svg"))
