"""A full disk, made by a limit on the size of files (RLIMIT_FSIZE) that is later lifted."""

import json
import tempfile
from contextlib import contextmanager

import pytest

from una_ref.cli import main

resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")

ADAPTER = "adapter_model.safetensors"


@contextmanager
def full(size):
    """No file may be longer. Python ignores SIGXFSZ, so a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def command(tmp_path, data, tiny):
    """command(output, *settings): the words of a run of nine steps."""
    pairs = data("pairs")

    def words(output, *settings):
        own = [*tiny, "steps=9", "held_out=0.2", *settings]
        return ["train", "dpo", "--data", pairs, "--output", str(tmp_path / output), *own]

    return words


@pytest.fixture
def base(command, tmp_path):
    """A model in a folder, so that a result holds no base of its own."""
    assert main(command("first", "steps=1")) == 0
    return [f"model={tmp_path / 'first' / 'base'}", "shape={}"]


@pytest.mark.parametrize(
    ("bytes_", "named", "settings", "given"),
    [
        (300, "run.json", [], False),
        (15_000, "metrics.jsonl", ["save_every=0", "log_every=1", "steps=60"], False),
        (6000, "checkpoint.safetensors", ["save_every=2"], False),
        (30_000, "base", ["save_every=2"], False),
        (7000, ADAPTER, ["save_every=0", "lora_r=16"], True),
        (7000, "tokenizer.json", ["save_every=0"], True),
    ],
)
def test_a_full_disk_is_named_leaves_nothing_half_written_and_the_run_resumes(
    bytes_, named, settings, given, command, base, tmp_path, capsys
):
    settings = [*settings, *(base if given else [])]
    assert main(command("straight", *settings)) == 0
    capsys.readouterr()
    out, straight = tmp_path / "out", tmp_path / "straight"
    with full(bytes_):
        assert main(command("out", *settings)) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"una-ref: failed: {out / named}: expected to write the whole file, got: ")
    assert "File too large" in last
    if named == "run.json":
        assert not out.exists()
    else:
        names = {p.name for p in out.rglob("*")}
        assert names <= {".lock", "run.json", "metrics.jsonl", "checkpoint.safetensors"} and "run.json" in names
        assert json.loads((out / "run.json").read_text())["finished"] is False
        lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
        assert lines == (straight / "metrics.jsonl").read_text().splitlines(keepends=True)[: len(lines)]
    assert main(command("out", *settings)) == 0
    for name in (ADAPTER, "metrics.jsonl"):
        assert (out / name).read_bytes() == (straight / name).read_bytes()
    assert {p.name for p in out.rglob("*")} == {p.name for p in straight.rglob("*")}


def test_a_full_folder_for_temporary_files_is_named(data, tmp_path, capsys):
    words = ["train", "dpo", "--data", data("pairs", 300), "--output", str(tmp_path / "out")]
    with full(20_000):
        assert main(words) == 1
    said = capsys.readouterr().err
    assert (
        f"{tempfile.gettempdir()} (TMPDIR names another): expected room for rows on disk, got: File too large" in said
    )
    assert not (tmp_path / "out").exists()


def lengths(answers):
    """A reward for the tests: characters of the response."""
    return [len(answer.response) for answer in answers]


def test_scores_that_do_not_fit_leave_no_file(data, tmp_path, capsys):
    output = tmp_path / "scored.jsonl"
    words = ["score", "--data", data("pairs", 200), "--reward", f"{__name__}:lengths", "--output", str(output)]
    with full(9000):
        assert main(words) == 1
    said = capsys.readouterr().err
    assert f"una-ref: failed: {output}: expected to write the whole file, got: File too large" in said
    assert {p.name for p in tmp_path.iterdir()} == {"pairs.jsonl"}
    assert main(words) == 0
