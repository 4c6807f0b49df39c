"""The offline study on a real language model: its data, its runs at tiny size, its report, and how it resumes."""


import pytest

from una_ref.studies.engine import carry_out
from una_ref.studies.real_data import Size
from una_ref.studies.real_offline import ENTRIES, REAL_OFFLINE, RealSettings

TINY = RealSettings(
    sizes={
        "scores": Size(8, 4),
        "pairs": Size(8, 4),
        "tuning": Size(4, 4),
        "reward": Size(8, 4),
        "llmbar": Size(0, 4),
        "hhh": Size(0, 4),
    },
    batch=4,
    tuning_batch=2,
    lora_r=2,
    prompts=3,
    new_tokens=4,
    seeds=(0,),
    lrs=(1e-3, 1e-2),
)


@pytest.fixture
def tiny(real_folders, tmp_path, monkeypatch, threads):
    """The study at tiny size: `tiny(folder, **options)` carries it out."""
    data, base = real_folders
    monkeypatch.setenv("UNA_REF_DATA", str(data))
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))
    return lambda folder, settings=TINY, **options: carry_out(
        REAL_OFFLINE, folder, settings=settings, base=base, workers=1, **options
    )


def test_the_study_computes_every_row_and_resumes(tiny, tmp_path, monkeypatch):
    results = tiny(tmp_path / "study")
    assert set(results) == {"scores", "pairs"}
    for part, found in results.items():
        assert [row["name"] for row in found["rows"]] == ["base", *(entry.name for entry in ENTRIES[part])]
        for row in found["rows"]:
            assert row["finished"] == 1 and not row["failed"]
            assert row["kl"]["items"] == 3 and (row["name"] == "base") == (row["kl"]["mean"] == 0)
        assert set(found["judge"]) == {"hh", "ultrafeedback", "llmbar", "hhh"}
    before = (tmp_path / "study" / "runs.jsonl").read_text()
    monkeypatch.setattr(REAL_OFFLINE.measure, "__code__", (lambda run, settings, base: 1 / 0).__code__)
    again = tiny(tmp_path / "study")
    assert (tmp_path / "study" / "runs.jsonl").read_text() == before
    assert again["pairs"]["rows"] == results["pairs"]["rows"]
