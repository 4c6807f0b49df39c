"""The README tells the truth: its links lead somewhere, its commands exist, its Python runs."""

import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(*languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", readme(), flags=re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(program: str) -> list[list[str]]:
    """The lines of the README's shell blocks that call ``program``, as words, without comments."""
    text = "\n".join(blocks("", "sh", "bash", "shell", "console")).replace("\\\n", " ")
    lines = (re.sub(r"\s#.*", "", line).removeprefix("$ ").split() for line in text.splitlines())
    return [words for words in lines if words and Path(words[0]).name == program]


def test_links_and_pictures_lead_somewhere():
    text = re.sub(r"^```.*?^```", "", readme(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r'(?:src|href|srcset)="([^"#]+)"', text)
    local = [target for target in targets if not re.match(r"\w+:", target)]
    assert local, "the README shows neither a table, a figure nor a notebook"
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_what_it_says_of_the_papers_is_the_ledger():
    from una_ref.claims import CLAIMS, markdown

    ids = re.findall(r"^\| ([EC][UP]\d+[ab]?) \|", readme(), flags=re.MULTILINE)
    assert len(ids) >= 7
    assert markdown([CLAIMS[id] for id in ids]) in readme()


def test_its_ratios_to_trl_are_the_record_s():
    runs = json.loads((ROOT / "figures" / "runs" / "offline_speed.json").read_text("utf-8"))["runs"]
    said = {
        "dpo / trl dpo": "A step of `dpo` takes {}, {} and {} of the CPU time",
        "dpo, cached / trl dpo, cached": "{}, {} and {} where both have the reference's log-probs already",
        "kto / trl kto": "`kto` {}, {} and {}, with the same losses",
        "dpo / trl dpo, pair by pair": "TRL is nearer: {}, {} and {}.",
    }
    text = " ".join(readme().split())
    for pair, sentence in said.items():
        medians = [run["ratios"]["time of a step"][pair]["median"] for run in runs]
        assert sentence.format(*(f"{median:.3f}".lstrip("0") for median in medians)) in text
    memory = [run["ratios"]["peak memory"][pair]["median"] for run in runs for pair in [*said][:3]]
    assert f"{min(memory):.2f}–{max(memory):.2f} of the peak memory".replace("0.", ".") in text
    assert all(run["gate"]["loss"]["measured"] <= 3.5e-6 for run in runs) and "the same losses to 3e-6" in text


def test_it_lists_every_notebook():
    sources = {f"notebooks/{path.stem}.ipynb" for path in (ROOT / "notebooks").glob("*.py")}
    assert set(re.findall(r"\((notebooks/\w+\.ipynb)\)", readme())) == sources


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {word for words in commands("make") for word in words[1:] if "=" not in word}
    assert {"demo", "test"} <= named
    assert {name for name in named if not re.search(rf"^{name}:", makefile, flags=re.MULTILINE)} == set()


def test_commands_and_their_options_exist():
    lines = [words[1:] for words in commands("una-ref")]
    assert lines, "the README shows no command"
    for name in sorted({words[0] for words in lines}):
        asked = [sys.executable, "-m", "una_ref", name, "--help"]
        done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"una-ref {name}: {done.stderr}"
        written = [word for words in lines if words[0] == name for word in words]
        used = {word.split("=")[0] for word in written if word.startswith("--")}
        known = set(re.findall(r"--[\w-]+", done.stdout))
        assert used <= known, f"una-ref {name} has no {', '.join(sorted(used - known))}"


@pytest.mark.slow
def test_its_python_runs_from_top_to_bottom(tmp_path):
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    assert script.read_text().strip(), "the README shows no Python"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    asked = [sys.executable, script]
    done = subprocess.run(asked, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_it_says_of_another_base_is_the_record_s():
    record = json.loads((ROOT / "figures" / "runs" / "another_base" / "results.json").read_text("utf-8"))
    regret = {row["name"]: row["regret"] for row in record["rows"]}

    def short(number):
        return f"{number:.3f}".removeprefix("0")

    mean = {name: short(one["mean"]) for name, one in regret.items()}
    worst = {name: [short(v) for v in sorted(one["values"], reverse=True)] for name, one in regret.items()}
    middle = {name: short(statistics.median(one["values"])) for name, one in regret.items()}
    [steady] = (row["regret"] for row in record["centred"] if row["beta"] == 0.3)
    text = " ".join(readme().split())
    for sentence in (
        f"(DPO {mean['dpo']}, UNA on thumbs {mean['una-binary-mse']} and {mean['una-binary-bce']}, "
        f"Eq. 10 {mean['una-score']} behind its base's {mean['base']})",
        f"one run of KTO ({worst['kto'][0]}; its mean {mean['kto']}, its median {middle['kto']})",
        f"two of centred UNA ({worst['una-centred'][0]}, {worst['una-centred'][1]}; mean {mean['una-centred']}, "
        f"median {middle['una-centred']})",
        f"(mean {short(steady['mean'])}, largest {short(max(steady['values']))})",
    ):
        assert sentence in text
