"""Files, folders, data sets and hub names are read in order, and anything else is refused."""

import gzip
import io
import json

import pytest

from una_ref.data.items import files, items
from una_ref.data.sources import read
from una_ref.errors import InputError

ROWS = [{"n": i} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def whole(found):
    """All items; the first one that is an error is raised."""
    for _, item in found:
        if isinstance(item, InputError):
            raise item


def refused(data, *parts, split="train"):
    with pytest.raises(InputError) as caught:
        whole(items(data, split))
    for part in ("expected", "got", *parts):
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "place"),
    [
        ("a.jsonl", LINES, ":{1}"),
        ("a.jsonl.gz", LINES, ":{1}"),
        ("a.json", json.dumps(ROWS, indent=1), "[{0}]"),
        ("a.json.gz", json.dumps(ROWS), "[{0}]"),
        ("lines.json", LINES, ":{1}"),
        ("list.jsonl", json.dumps(ROWS), "[{0}]"),
    ],
)
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_every_kind_of_file_gives_its_items_with_their_places(tmp_path, name, text, place, kind):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert list(items(kind(path), "train")) == [(f"{path}{place.format(i, i + 1)}", {"n": i}) for i in range(3)]


def test_line_numbers_count_blank_lines_and_only_line_feeds_end_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    text = '\ufeff{"n": 0}\r\n\n  \n{"n": "a\u2028b\x85c"}\n\n'
    path.write_bytes(text.encode())
    assert list(items(path, "train")) == [(f"{path}:1", {"n": 0}), (f"{path}:4", {"n": "a\u2028b\x85c"})]


def test_several_files_are_read_in_order(tmp_path):
    paths = [tmp_path / "b.jsonl", tmp_path / "a.json"]
    paths[0].write_text('{"n": 1}')
    paths[1].write_text('[{"n": 2}]')
    assert [item["n"] for _, item in items([str(paths[0]), paths[1]], "train")] == [1, 2]
    refused([paths[0], tmp_path / "no.jsonl"], "no.jsonl", "no such file")


def test_files_are_streamed(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(LINES + "broken")
    found = items(path, "train")
    assert [next(found)[1]["n"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match=r"a.jsonl:4 line: expected JSON, got broken JSON"):
        whole(found)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b'{"n": 1}\n{"n": \n', [":2 line", "JSON", "broken JSON (Expecting value at character"]),
        ("a.jsonl", b'{"n": 1}{"n": 2}\n', [":1 line", "JSON", "Extra data"]),
        ("a.jsonl", b'{"n": 1}\n{"n": "\xff"}\n', [":2 line", "UTF-8", "0xff at 7"]),
        ("a.jsonl", b'{"n": ' + b"9" * 5000 + b"}", [":1 line", "JSON", "ValueError"]),
        ("a.jsonl", b"[" * 100_000, [":1 line", "JSON", "RecursionError"]),
        ("a.jsonl", b"", ["at least one row", "an empty file"]),
        ("a.jsonl", b"\n \n", ["at least one row", "an empty file"]),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), ["at least one row", "an empty file"]),
        (
            "a.jsonl.gz",
            gzip.compress(LINES.encode(), mtime=0)[:-9],
            ["file", "a whole, readable file", "ended before"],
        ),
        ("a.jsonl.gz", LINES.encode(), [":1 file", "a whole, readable file", "Not a gzipped file"]),
        ("a.jsonl", gzip.compress(LINES.encode(), mtime=0), [":1 line", "UTF-8", "0x8b at 1"]),
        ("a.json", b'[{"n": 1},\n\n{"n": }]', [":3 line", "JSON", "Expecting value at character 7"]),
        ("a.json", b'{\n"n": 1}', ["a list of rows", "one object a line", "got dict"]),
        ("a.json", b"[]", ["at least one row", "an empty file"]),
        ("a.json", b"", ["at least one row", "an empty file"]),
        ("a.txt", b"n\n1\n", ["file", "a name that ends in .jsonl or", "a.txt"]),
        ("a.csv", b"n,m\n1,2\n3\n", [":3 line", "2 cells, as in the header", "got 1"]),
        ("a.csv", b'n,m\n1,"2"3\n', [":2 line", "CSV"]),
        ("a.csv", b"n,m\n1,\xff\n", ["UTF-8 text", "byte 0xff"]),
        ("a.csv", b"n,m\n", ["at least one row", "a header alone"]),
        ("a.tsv", b"", ["at least one row", "an empty file"]),
    ],
)
def test_damaged_files_are_refused_by_line(tmp_path, name, content, parts):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, str(path), *parts)


def test_a_truncated_gzip_gives_its_intact_lines_first(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    text = "".join(json.dumps({"n": i, "x": str(hash(str(i)))}) + "\n" for i in range(50_000))
    path.write_bytes(gzip.compress(text.encode())[:-100_000])
    seen = 0
    with pytest.raises(InputError) as caught:  # noqa: PT012
        for _ in items(path, "train"):
            seen += 1
    assert seen > 0 and f"{path}:{seen + 1} file" in str(caught.value)


def test_a_damaged_gzip_is_refused_by_line(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    content = bytearray(gzip.compress(LINES.encode(), mtime=0))
    content[-8] ^= 0xFF  # of the checksum
    path.write_bytes(content)
    refused(path, f"{path}:4 file", "a whole, readable file", "CRC")


@pytest.mark.parametrize(
    "name",
    [
        *("no.jsonl", "no/where/at.all", "/no/such", "./no", "x" * 5000, "a\0b", "word"),
        *("a/b.json", "data/pairs.csv", "data/pairs.txt"),
    ],
)
def test_missing_files_are_refused_before_anything_is_read(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="data: expected a file, a folder or a hub name .*got no such file or folder"):
        items(name, "train")


@pytest.mark.parametrize("data", [None, 3, object()])
def test_data_that_cannot_be_iterated_is_refused(data):
    refused(data, "data", "an iterable of dictionaries", type(data).__name__)


def test_folders_without_files_are_refused(tmp_path):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    refused(tmp_path / "data", "data data", "a folder with data files", "a folder without files")


@pytest.fixture
def parquet(tmp_path):
    """parquet(rows, name): a Parquet file of several row groups."""

    def write(rows, name="a.parquet"):
        from pyarrow import Table
        from pyarrow.parquet import write_table

        write_table(Table.from_pylist(rows), tmp_path / name, row_group_size=2)
        return tmp_path / name

    return write


def test_parquet_rows_have_their_index(parquet):
    nested = [{"n": i, "m": [{"role": "user", "content": "é"}], "none": None} for i in range(5)]
    path = parquet(nested)
    assert list(items(path, "train")) == [(f"{path}[{i}]", row) for i, row in enumerate(nested)]
    refused(parquet([]), "at least one row", "an empty table")


def test_a_damaged_parquet_file_is_refused(parquet):
    path = parquet([{"n": str(i) * 50} for i in range(5)])
    whole = path.read_bytes()
    for content in (whole[:-9], b"", b'{"n": 1}\n'):
        path.write_bytes(content)
        refused(path, f"{path}[0] file", "a whole, readable Parquet file")
    path.write_bytes(whole[:6] + b"\xff" * 40 + whole[46:])
    refused(path, f"{path}[", "a whole, readable Parquet file")


def test_standard_input_is_read_as_json_lines(monkeypatch):
    def given(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(LINES.encode())
    assert list(items("-", "train")) == [(f"stdin:{i + 1}", {"n": i}) for i in range(3)]
    given(LINES.encode() + b"broken")
    refused("-", "stdin:4 line", "JSON")
    given(b"")
    refused("-", "stdin file", "at least one row", "an empty file")


def test_a_table_gives_texts_and_missing_values(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffprompt,score\r\n"two\nlines, quoted",0.5\r\n\r\nb,\r\n'.encode())
    first, second = items(path, "train")
    assert first == (f"{path}:3", {"prompt": "two\nlines, quoted", "score": "0.5"})
    assert second == (f"{path}:5", {"prompt": "b", "score": None})
    (tmp_path / "a.tsv").write_text("n\tm\n1\t2\n")
    assert list(items(tmp_path / "a.tsv", "train")) == [(f"{tmp_path}/a.tsv:2", {"n": "1", "m": "2"})]


def test_a_pattern_stands_for_its_files_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "a.txt"):
        (tmp_path / name).write_text(LINES)
    assert files(f"{tmp_path}/*.jsonl") == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    (tmp_path / "[x].jsonl").write_text(LINES)
    for name in (f"{tmp_path}/[x].jsonl", f"{tmp_path}/no.jsonl", "-", "org/name"):
        assert files(name) == [name]
    with pytest.raises(InputError, match=r"\*.parquet data: expected a pattern that matches a file, got no match"):
        files(f"{tmp_path}/*.parquet")


def test_a_mapping_holds_splits():
    assert list(items({"train": ROWS, "test": []}, "train"))[2] == ("dataset[2]", {"n": 2})
    refused({"train": ROWS}, "dataset split", "one of train", "'test' (str)", split="test")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """`datasets` with its cache in tmp_path, and no hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return datasets


def test_dataset_objects_are_read(offline):
    rows = offline.Dataset.from_list(ROWS)
    assert list(items(rows, "train")) == [(f"dataset[{i}]", {"n": i}) for i in range(3)]
    assert len(list(items(offline.DatasetDict({"train": rows}), "train"))) == 3
    refused(offline.DatasetDict({"train": rows}), "split", "one of train", "'test'", split="test")


def test_folders_are_loaded_by_datasets(offline, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text(LINES)
    assert list(items(folder, "train")) == [(f"{folder}[{i}]", {"n": i}) for i in range(3)]
    refused(folder, str(folder), "a data set that loads, with a split 'test'", "ValueError", split="test")


@pytest.mark.parametrize("several", [False, True])
def test_data_sets_saved_to_disk_are_loaded(offline, tmp_path, several):
    rows = offline.Dataset.from_list(ROWS)
    (offline.DatasetDict({"train": rows}) if several else rows).save_to_disk(tmp_path / "saved")
    found = [item["n"] for _, item in items(tmp_path / "saved", "train")]
    assert found == [0, 1, 2]


def test_an_unreachable_hub_is_refused_by_name(offline):
    refused("org/no-such-data-set", "org/no-such-data-set data", "a data set that loads", "Error")


def test_a_missing_datasets_library_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    refused("org/name", "org/name data", "a data set that loads", "ModuleNotFoundError")


def test_only_a_folder_s_own_description_is_no_file_of_another_kind(tmp_path):
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\np,a,b\n")
    assert [item for _, item in items(str(tmp_path), "train")] == [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    (tmp_path / "dataset_a.jsonl").write_text("{}\n")
    refused(str(tmp_path), "data", "files of one kind", "a.csv and dataset_a.jsonl")


def test_a_column_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    good = '{"prompt": "p", "completion": "a"}\n'
    path.write_text(good + '{"prompt": "p", "completion": "a", "completion": "b"}\n')
    with pytest.raises(InputError, match=r"a.jsonl:2 line: expected each column once, got completion twice"):
        list(read(path))
    assert len(list(read(path, bad_rows="drop"))) == 1
    path.write_text('[{"prompt": "p", "completion": "a", "x": {"y": 1, "y": 2}}]')
    with pytest.raises(InputError, match=r"a.jsonl:1 line: expected each column once, got y twice"):
        list(read(path))
    table = tmp_path / "a.csv"
    table.write_text("prompt,completion,completion\np,a,b\n")
    with pytest.raises(InputError, match=r"a.csv:1 line: expected each column once, got completion twice"):
        list(read(table))
