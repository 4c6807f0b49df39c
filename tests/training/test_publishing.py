"""The upload of a finished run: what it refuses, what the card's header holds, and a hub that cannot be reached."""

import base64
import json
import shlex
from contextlib import contextmanager

import pytest
from huggingface_hub import ModelCard, constants

from una_ref.cli import main
from una_ref.evaluation.store import Results, Score
from una_ref.training.publishing import complete_card, evaluations


@pytest.fixture
def words(tmp_path, data, tiny):
    """The command of a run of two steps into tmp_path/out."""
    return ["train", "dpo", "--data", data("pairs"), "--output", str(tmp_path / "out"), *tiny, "steps=2"]


@pytest.fixture(autouse=True)
def _no_token(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))


@pytest.mark.parametrize(
    ("name", "offline", "said"),
    [
        ("me/mine", False, "push: expected a token of the hub, got none. Fix: hf auth login, or set HF_TOKEN"),
        ("me/mine", True, "push: expected a network, got HF_HUB_OFFLINE=1. Fix: unset it, or leave out push"),
        ("me/my/mine", False, "push: expected NAME or USER/NAME of a repository, got 'me/my/mine': "),
    ],
)
def test_an_upload_that_cannot_work_is_refused_before_anything_begins(
    name, offline, said, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert main([*words, f"push={name}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"una-ref: {said}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_several_steps_pushes_the_step_that_is_named(tmp_path, capsys):
    output = ["--output", str(tmp_path / "out")]
    assert main(["train", "paft", *output, "push=me/mine"]) == 2
    assert "push: expected the step whose result is uploaded. Fix: merged.push=me/mine" in capsys.readouterr().err
    assert main(["train", "paft", *output, "dpo.push=me/mine"]) == 2
    assert not (tmp_path / "out").exists()


def test_the_header_gets_evaluations_and_licence_and_keeps_what_the_author_wrote(words, tmp_path):
    folder, card = tmp_path / "out", tmp_path / "out" / "README.md"
    assert main([*words, "license=apache-2.0"]) == 0
    assert ModelCard.load(card).data.to_dict()["license"] == "apache-2.0"
    card.write_text(card.read_text().replace("tags:\n", "language: en\ntags:\n") + "\nFor research only.\n")
    before = ModelCard.load(card)
    complete_card(folder, "me/mine")
    assert ModelCard.load(card).data.to_dict() == before.data.to_dict(), "nothing has been evaluated"
    results = Results(folder / "evaluation")
    results.finish("arc", [Score("arc", "acc_norm", 0.25, 0.125, 12), Score("arc", "acc", 0.5, None, 12)], {})
    results.begin("mmlu", {"shots": 5})  # not finished
    for _ in range(2):
        complete_card(folder, "me/mine", "mit")
    after = ModelCard.load(card)
    assert after.text == before.text and after.text.endswith("For research only.\n")
    found = after.data.to_dict()
    assert found.pop("model-index") == [
        {
            "name": "mine",
            "results": [
                {
                    "task": {"type": "text-generation"},
                    "dataset": {"name": "arc", "type": "arc"},
                    "metrics": [
                        {"name": "acc_norm, 12 items, standard error 0.125", "type": "acc_norm", "value": 0.25},
                        {"name": "acc, 12 items", "type": "acc", "value": 0.5},
                    ],
                }
            ],
        }
    ]
    assert found == before.data.to_dict() | {"license": "mit"} and found["language"] == "en"
    assert [e.metric_type for e in evaluations(folder)] == ["acc_norm", "acc"]


def test_the_card_s_command_pushes_nothing_and_the_hub_s_keys_may_change(words, tmp_path, capsys):
    assert main([*words, "license=mit"]) == 0
    assert "push=" not in (tmp_path / "out" / "README.md").read_text()
    assert main(words) == 0 and "finished already" in capsys.readouterr().err


@pytest.fixture
def hub(loopback, monkeypatch):
    """hub(): a context with the URL of a hub on this machine, and what the hub's own client sent to it, by path."""
    monkeypatch.setenv("HF_TOKEN", "hf_a_token")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # files travel inside of the commit

    @contextmanager
    def serve():
        sent = {}

        def answer(request, number):
            path = request.path.partition("?")[0]
            sent[path] = [json.loads(line) for line in request.body.splitlines()]
            assert request.headers["Authorization"] == "Bearer hf_a_token"
            if path == "/api/repos/create":
                return {"url": f"{constants.ENDPOINT}/me/mine", "id": "me/mine"}
            if path == "/api/validate-yaml":
                return {"errors": [], "warnings": []}
            if path == "/api/models/me/mine/preupload/main":
                paths = [file["path"] for file in sent[path][0]["files"]]
                return {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]}
            if path == "/api/models/me/mine/commit/main":
                return {"commitOid": "0" * 40, "commitUrl": f"{constants.ENDPOINT}/me/mine/commit/{'0' * 40}"}
            return 404, {"error": f"no {path}"}

        with loopback(answer) as url:
            monkeypatch.setattr(constants, "ENDPOINT", url)
            yield url, sent

    return serve


def test_the_result_alone_is_uploaded_to_a_private_repository(words, tmp_path, hub, capsys):
    out = tmp_path / "out"
    more = ["keep_every=1", "keep_best=eval_loss", "eval_every=1", "held_out=0.3", "schedule=constant", "warmup=0"]
    assert main([*words, *more, "tracker=tensorboard"]) == 0
    results = Results(out / "evaluation")
    results.finish("arc", [Score("arc", "acc", 0.5, None, 12)], {"item-1": {"acc": 0.5}})
    for name in (".env", "base/.env", ".cache/x.json", "checkpoint-best-7.safetensors"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("private")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    with hub() as (url, sent):
        assert main([*words, *more, "tracker=tensorboard", "push=me/mine"]) == 0
    assert f"pushed to {url}/me/mine" in capsys.readouterr().err
    (repository,) = sent["/api/repos/create"]
    assert (repository["name"], repository["organization"]) == ("mine", "me")
    assert repository.get("visibility") == "private" or repository.get("private") is True  # since hub 2, and before
    header, *lines = sent["/api/models/me/mine/commit/main"]
    assert header["key"] == "header" and {line["key"] for line in lines} == {"file"}
    files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines}
    assert {*files} == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.json"),
        *("tokenizer.json", "tokenizer_config.json"),
        *("base/config.json", "base/generation_config.json", "base/model.safetensors"),
        *("base/tokenizer.json", "base/tokenizer_config.json"),
    }
    assert all(content == (out / name).read_bytes() for name, content in files.items())
    assert b"model-index" in files["README.md"], "the evaluation is in the card"
    kept = {"checkpoint.safetensors", "step-1/adapter_model.safetensors", "step-2/adapter_model.safetensors"}
    kept |= {".env", "base/.env", ".cache/x.json", "checkpoint-best-7.safetensors"}
    assert kept <= names - {*files}
    assert {name.partition("/")[0] for name in names - {*files} - kept} >= {"evaluation", "tensorboard", "step-1"}


def test_a_hub_that_cannot_be_reached_leaves_the_finished_run_and_the_command_to_retry(
    words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert main([*words, "push=me/mine"]) == 1
    last, out = capsys.readouterr().err.splitlines()[-1], tmp_path / "out"
    said, _, retry = last.partition(". Fix: una-ref ")
    expected = f"expected http://127.0.0.1:9 to take the run, which is saved in {out}, got: "
    assert said.startswith(f"una-ref: failed: push=me/mine: {expected}")
    assert json.loads((out / "run.json").read_text())["finished"] and (out / "adapter_model.safetensors").exists()
    again = [word for word in shlex.split(retry) if word != "push=me/mine"]
    assert len(again) == len(shlex.split(retry)) - 1 and main(again) == 0
    assert "finished already" in capsys.readouterr().err
