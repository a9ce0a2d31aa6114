"""An installed wheel runs the search: built, installed without the checkout, started by its own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import REPOSITORY


def run(*command: str, cwd: Path, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env={**clean, "OMP_NUM_THREADS": "1", **env}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "--disable-pip-version-check")
    run(sys.executable, *pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY), cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


def test_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for space in ("stagewise", "blockwise", "on-off"):
        assert f"se_nas/search_spaces/{space}.yaml" in names
    package = REPOSITORY / "se_nas"
    needed = {str(file.relative_to(REPOSITORY)) for name in ("*.py", "templates/*") for file in package.rglob(name)}
    assert needed <= set(names)
    assert not [name for name in names if not name.startswith(("se_nas/", "se_nas-"))]


def test_search_from_an_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    """The environment is new; the libraries are those of this one, seen through a path file."""
    run(sys.executable, "-m", "venv", str(tmp_path / "v"), cwd=tmp_path)
    python = tmp_path / "v" / "bin" / "python"
    site = Path(run(str(python), "-c", "import site; print(site.getsitepackages()[0])", cwd=tmp_path).strip())
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    run(
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--force-reinstall",
        str(wheel),
        cwd=tmp_path,
    )
    where = run(str(python), "-c", "import se_nas; print(se_nas.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(site)
    output = run(
        str(tmp_path / "v" / "bin" / "se-nas"), "search", "--backbone", "resnet8", "--budget", "2", "--epochs", "1",
        "--space", "blockwise", "--workers", "2", "--out", "run", "--json", cwd=tmp_path,
    )  # fmt: skip
    content = json.loads(output)
    assert content["trained"] == 2
    assert content["ended"] == "the budget of 2 trainings is spent"
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()
