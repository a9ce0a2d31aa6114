"""A search in a notebook that is really run: its cell shows where it is, and nothing where that is not wanted."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from helpers import environment

pytest.importorskip("ipykernel", reason="needs a kernel to run a notebook")
pytest.importorskip("nbclient", reason="needs what runs notebooks")

Outputs = list[list[dict[str, Any]]]

RUN = '''
import json, sys, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)  # of Jupyter's own
import nbformat
from nbclient import NotebookClient

seen = []

class Watching(NotebookClient):
    """Keeps what the kernel sends, in its order."""

    def process_message(self, message, cell, number):
        if message["msg_type"] in ("display_data", "update_display_data", "stream"):
            content = message["content"]
            seen.append((number, message["msg_type"], content.get("text") or content["data"].get("text/html", "")))
        return super().process_message(message, cell, number)

cells = [nbformat.v4.new_code_cell(code) for code in json.loads(sys.argv[1])]
notebook = nbformat.v4.new_notebook(cells=cells)
Watching(notebook, timeout=240, kernel_name="python3").execute()
outputs = [[dict(o) for o in cell.outputs] for cell in notebook.cells]
print("\\n" + json.dumps({"seen": seen, "outputs": outputs}))
'''

FIRST = """
import se_nas
settings = dict(budget=2, epochs=2, batch_size=4, workers=1)
result = se_nas.search(out="run", **settings)
"""
INLINE = """
inline = se_nas.search(out="inline", executor="inline", **settings)
"""
SILENT = """
silent = se_nas.search(out="silent", progress=False, **{**settings, "budget": 1, "epochs": 1})
"""
CONFIRM = """
confirmed = se_nas.confirm("run", seeds=2, top=1, epochs=1)
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[str]], Outputs]:
    """What each cell showed, one version after the other, as text; and its outputs in the end."""
    folder = tmp_path_factory.mktemp("notebook")
    kernels = folder / "kernels" / "python3"
    kernels.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernels / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "se-nas", "language": "python"}))
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([FIRST, INLINE, SILENT, CONFIRM])],
        cwd=folder, env=environment(JUPYTER_PATH=str(folder), IPYTHONDIR=str(folder / "ipython")),
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    shown: list[list[str]] = [[] for _ in found["outputs"]]
    for number, kind, text in found["seen"]:
        if kind != "stream":
            shown[number].append(html.unescape(re.sub("<[^>]+>", "", text)))
    return shown, found["outputs"]


def place(versions: list[str], pattern: str) -> int:
    """The first version in which something is to be read."""
    return next(i for i, text in enumerate(versions) if re.search(pattern, text))


@pytest.mark.parametrize(("cell", "out"), [(0, "run"), (1, "inline")])
def test_a_search_says_where_it_is(cells: tuple[list[list[str]], Outputs], cell: int, out: str) -> None:
    shown, outputs = cells
    versions = shown[cell]
    steps = [r"timing some steps of training \.\.\.", r"0/2 trained .* about .* left", r"\b0 +none", r"1/2 trained",
             "front so far", "writing the report"]  # fmt: skip
    steps = [*(["loading PyTorch and Lightning"] if cell == 0 else []), *steps]
    places = [place(versions, step) for step in steps]
    assert places == sorted(places)
    assert any(re.search(r"0 +none +[12]/2 +\d+/\d+ +\d\.\d", text) for text in versions), "epoch, batch and loss"
    displays = [o for o in outputs[cell] if o["output_type"] == "display_data"]
    assert len(displays) == 1, "one display, which is drawn again and again"
    last = displays[0]["data"]["text/html"]
    assert "trained" not in last
    assert "time: about" in last, "what was said stays"


def test_progress_false_silences(cells: tuple[list[list[str]], Outputs]) -> None:
    shown, outputs = cells
    assert shown[2] == []
    assert outputs[2] == []


def test_a_confirm_says_where_it_is(cells: tuple[list[list[str]], Outputs]) -> None:
    versions = cells[0][3]
    steps = ["2 networks .* x 2 fresh seeds|3 networks .* x 2 fresh seeds", r"0/\d trained", "evaluating"]
    places = [place(versions, step) for step in steps]
    assert places == sorted(places)
