"""The wheel and the sdist: what is in them, and that una-ref works from the wheel without a checkout."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import una_ref
from una_ref.claims import CLAIMS
from una_ref.methods import METHODS
from una_ref.training.settings import recipe

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the wheel and the sdist of this checkout."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, "-t", "wheel", "-t", "sdist", cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The programs of an environment with the wheel; its dependencies are those of the tests, without this checkout."""
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    [wheel] = built.glob("*.whl")
    run(sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-deps", "--no-index", wheel)
    [packages] = {path.parent for path in folder.rglob("una_ref") if path.is_dir()}
    others = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(others))  # its own .pth files, as of an editable install, rest
    return programs


def environment():
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "UNA_REF_DATA")}


def test_wheel_has_the_package_and_nothing_else(built):
    [wheel] = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"una_ref", f"una_ref-{una_ref.__version__}.dist-info"}
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "una_ref").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    kept = {"compare/results.json", "compare/runs.jsonl", "another_base/results.json"}  # notebook 11 reads them
    kept |= {"leaderboard/results.json"}  # notebook 14
    assert files | {f"una_ref/runs/{name}" for name in kept} == {name for name in names if name.startswith("una_ref/")}
    assert "una_ref/py.typed" in names


def test_sdist_has_what_its_tests_and_pages_need(built):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "una_ref/py.typed",
        "tests/test_wheel.py",
        "hatch_build.py",
        "figures/runs/compare/runs.jsonl",
        "docs/book.py",
        "docs/_static/site.css",
        "constraints.txt",
    } <= names


def test_installed_package_is_that_of_the_wheel(installed, tmp_path):
    printed = run(
        installed / "python", "-c", "import una_ref; print(una_ref.__file__)", cwd=tmp_path, env=environment()
    )
    assert Path(printed.strip()).is_relative_to(installed.parent)


def test_records_of_notebooks_11_and_14_come_with_the_wheel(installed, tmp_path):
    code = "from una_ref import figures as f; print(*map(f.records, ('compare', 'another_base', 'leaderboard')))"
    for folder in run(installed / "python", "-c", code, cwd=tmp_path, env=environment()).split():
        assert Path(folder).is_relative_to(installed.parent)
        committed = ROOT / "figures" / "runs" / Path(folder).name
        assert (Path(folder) / "results.json").read_bytes() == (committed / "results.json").read_bytes()


def test_commands_work_from_the_wheel_without_a_checkout(installed, tmp_path):
    def una(*words):
        return run(installed / "una-ref", *words, cwd=tmp_path, env=environment())

    assert " ".join(CLAIMS["CU5"].number.split()) in " ".join(una("claims", "CU5").split())  # from evidence.json
    assert METHODS["una-score"].equation in una("methods", "una-score")
    assert recipe("una-offline/dpo")["model"] in una("train", "una-offline/dpo", "--dry-run")
    una("train", "dpo", "--output", "run", "steps=1")  # on ToySteer, from its base policy: weights of the package
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
