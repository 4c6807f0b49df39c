"""The notebooks' helpers: checks that print evidence and can fail, the scale switch, and twins."""

import json
import math
import shutil
import textwrap

import nbformat
import pytest
import torch

from una_ref import notebook
from una_ref.notebook import check, scale


def test_close_prints_its_evidence(capsys):
    check.close("EU1 fixed point", torch.tensor([1.0, 2.0], dtype=torch.float64), [1.0, 2.0 + 4.4e-16])
    assert capsys.readouterr().out == "EU1 fixed point  max |diff| 4.4e-16\n"


@pytest.mark.parametrize("b", [1.1, [1.0, 1.1], [1.0, math.nan], math.inf])
def test_close_fails_with_the_name_of_the_claim(b):
    with pytest.raises(AssertionError, match="Eq. 7: max"):
        check.close("Eq. 7", torch.ones(2), b, tol=1e-3)


def test_close_refuses_shapes_that_would_broadcast():
    with pytest.raises(AssertionError, match=r"Eq. 7: shapes \(3,\) and \(3, 1\)"):
        check.close("Eq. 7", torch.ones(3), torch.ones(3, 1))
    with pytest.raises(AssertionError, match="empty"):
        check.close("Eq. 7", [], [])


def test_close_accepts_equal_infinities():
    check.close("zeros of the reference", [-math.inf, 0.0], [-math.inf, 0.0])


def test_differs_is_the_negative_of_close(capsys):
    check.differs("without log Z", torch.tensor([0.0, 0.47]), 0.0, by=0.1)
    assert "max |diff| 0.47, at least 0.1" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="without log Z: max .* expected at least 0.5"):
        check.differs("without log Z", torch.tensor([0.0, 0.47]), 0.0, by=0.5)
    with pytest.raises(AssertionError):
        check.differs("NaN differs by no amount", math.nan, 0.0, by=0.5)


def test_true_prints_its_evidence(capsys):
    check.true("una-centred wins", torch.tensor(True), "0.10 < 0.20")
    assert capsys.readouterr().out == "una-centred wins  0.10 < 0.20\n"
    with pytest.raises(AssertionError, match=r"una-centred wins: does not hold \(0.30 < 0.20\)"):
        check.true("una-centred wins", 0.30 < 0.20, "0.30 < 0.20")


def test_scale_is_ci_unless_full_is_asked_for(monkeypatch):
    monkeypatch.delenv("UNA_REF_SCALE", raising=False)
    assert scale(full=2000, ci=5) == 5
    monkeypatch.setenv("UNA_REF_SCALE", "ci")
    assert scale(full=2000, ci=5) == 5
    monkeypatch.setenv("UNA_REF_SCALE", "full")
    assert scale(full=2000, ci=5) == 2000
    monkeypatch.setenv("UNA_REF_SCALE", "fast")
    with pytest.raises(ValueError, match="UNA_REF_SCALE: expected 'ci', 'smollm2' or 'full', got 'fast'"):
        scale(full=2000, ci=5)


def test_scale_smollm2_takes_ci_where_a_cell_has_no_value_for_it(monkeypatch):
    monkeypatch.setenv("UNA_REF_SCALE", "smollm2")
    assert scale(full=2000, ci=5, smollm2=40) == 40
    assert scale(full=2000, ci=5) == 5
    assert scale(full=[1], ci=[2], smollm2=[]) == []


GOOD = """
    # ---
    # jupyter:
    #   kernelspec:
    #     display_name: Python 3
    #     language: python
    #     name: python3
    # ---

    # %% [markdown]
    # # Is one one?

    # %%
    import sys
    import matplotlib.pyplot as plt
    from una_ref.notebook import check, scale
    print("a progress bar with a time in it", file=sys.stderr)

    # %% tags=["check"]
    check.close("one", 1.0, 1)
    print(scale(full="full", ci="ci"))
    check.differs("not two", 1.0, 2, by=0.5)
    check.true("1 < 2", 1 < 2)

    # %%
    plt.plot([1, 2]);
"""


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """An executed notebook, built once; tests that change it use a copy."""
    folder = tmp_path_factory.mktemp("built") / "notebooks"
    folder.mkdir()
    source = folder / "00_good.py"
    source.write_text(textwrap.dedent(GOOD).lstrip())
    return notebook.build(source)


@pytest.fixture
def copied(twin, tmp_path):
    folder = tmp_path / "notebooks"
    shutil.copytree(twin.parent, folder)
    return folder / "00_good.py"


def write(folder, text):
    folder.mkdir(exist_ok=True)
    source = folder / "01_bad.py"
    source.write_text(textwrap.dedent(text).lstrip())
    return source


def test_a_twin_of_its_source_has_no_faults(copied):
    assert notebook.faults(copied) == []


def test_a_rebuilt_twin_has_the_same_bytes_at_any_scale_setting(twin, copied, monkeypatch):
    monkeypatch.setenv("UNA_REF_SCALE", "full")
    notebook.build(copied)
    assert copied.with_suffix(".ipynb").read_bytes() == twin.read_bytes()


def test_a_twin_has_outputs_and_figures_and_no_stderr(twin):
    made = json.loads(twin.read_text())
    assert made["metadata"] == {"kernelspec": notebook.KERNEL}
    assert [cell["id"] for cell in made["cells"]] == ["cell-00", "cell-01", "cell-02", "cell-03"]
    assert made["cells"][2]["metadata"] == {"tags": ["check"]}
    assert "image/png" in made["cells"][3]["outputs"][0]["data"]
    assert "progress bar" not in str(made["cells"][1]["outputs"])


def test_the_checks_of_a_cell_are_folded_and_its_negative_checks_stay_visible(twin):
    printed, folded = json.loads(twin.read_text())["cells"][2]["outputs"]
    assert printed["text"] == ["ci\n", "not two  max |diff| 1, at least 0.5 as it should\n"]
    assert folded["data"]["text/plain"] == ["2 checks passed"]
    shown = "".join(folded["data"]["text/html"])
    lines = "one  max |diff| 0.0e+00\n1 &lt; 2  holds"
    assert shown == f"<details><summary>2 checks passed</summary><pre>{lines}</pre></details>"


def spoil(change):
    def spoiled(source):
        made = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
        change(made)
        nbformat.write(made, source.with_suffix(".ipynb"))

    return spoiled


def edit(old, new):
    return lambda source: source.write_text(source.read_text().replace(old, new))


ERROR = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
FAULTS = {
    "is missing": lambda source: source.with_suffix(".ipynb").unlink(),
    "not made from the current": edit("# Is one", "# Was one"),
    "kernelspec": spoil(lambda made: made.metadata.kernelspec.update(name="una")),
    "00_good.py: kernelspec": edit("name: python3", "name: una"),
    "not executed from top to bottom": spoil(lambda made: made.cells[2].update(execution_count=7)),
    "not executed": spoil(lambda made: made.cells[2].update(execution_count=None)),
    "ended in an error": spoil(lambda made: made.cells[2].outputs.append(ERROR)),
    "tagged as a check": spoil(lambda made: made.cells[2].metadata.clear()),
    "expected at most": spoil(lambda made: made.cells[2].outputs[0].update(text="x" * notebook.LARGEST_TWIN)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_twin_is_reported_alone(fault, copied):
    FAULTS[fault](copied)
    found = notebook.faults(copied)
    assert len(found) == 1 and fault in found[0]


BAD = {
    "notebooks/01_bad.py:4: AssertionError: one: max": """
        # %%
        from una_ref.notebook import check
        def claim(x):
            check.close("one", x, 1.0)

        # %%
        y = 2.0
        claim(y)
    """,
    "notebooks/01_bad.py:6: SyntaxError": """
        # %%
        y = 2.0

        # %%
        x = 1
        x = = 1
    """,
    "notebooks/01_bad.py:2: output has a memory address": """
        # %%
        object()
    """,
    "notebooks/01_bad.py:2: output has a folder of this machine": """
        # %%
        from pathlib import Path
        Path.cwd()
    """,
}


@pytest.mark.parametrize("message", BAD)
def test_a_failing_cell_is_reported_with_its_line_and_no_twin_is_written(message, tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "notebooks", BAD[message])
    monkeypatch.setattr(notebook, "folder", lambda: source.parent)
    assert notebook.main(["build", "01_bad"]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in source.parent.iterdir()] == ["01_bad.py"]


def test_an_unknown_notebook_is_refused(tmp_path, monkeypatch, capsys):
    write(tmp_path, "")
    monkeypatch.setattr(notebook, "folder", lambda: tmp_path)
    with pytest.raises(SystemExit) as stop:
        notebook.main(["build", "02_nowhere"])
    assert stop.value.code == 2
    assert "no notebook 02_nowhere" in capsys.readouterr().err
