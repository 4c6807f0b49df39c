"""What the tests of studies share."""

import gzip
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from una_ref.studies import run_store
from una_ref.studies.online_runs import OnlineSettings
from una_ref.studies.proxies import TRUTH


@pytest.fixture
def threads(monkeypatch):
    """Runs are computed in threads: tests' own functions are not found by name in another process."""
    monkeypatch.setattr(run_store, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))


@pytest.fixture(scope="session")
def records():
    """The folder of the committed records."""
    return Path(__file__).resolve().parents[2] / "figures" / "runs"


@pytest.fixture(scope="session")
def other_base(tmp_path_factory, toysteer_base):
    """ToySteer's base policy with other weights, in a folder of its own."""
    from una_ref.policies import loading

    folder = tmp_path_factory.mktemp("bases") / "other"
    model, tokenizer = loading.load(str(toysteer_base))
    for weight in model.parameters():
        weight.data *= 0.9
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_online():
    """Settings of a small online study."""
    return OnlineSettings(
        steps=2,
        draws=4,
        every=1,
        rollouts=3,
        timed=2,
        test=64,
        reward=TRUTH,
        rewards=("16", TRUTH),
        offsets=(0.0, 2.0),
        entries=("rloo", "una-online"),
        offset_entries=("una-online", "una-centred"),
        retuned=("una-online",),
        proxy_entries=("rloo",),
        seeds=(0, 1),
        tuning_seeds=(100,),
        timed_seeds=(0,),
        lrs=(3e-3, 1e-2),
    )


@pytest.fixture(scope="session")
def real_folders(tmp_path_factory):
    """Made-up data in the files of the real ones, and a tiny language model with a tokenizer made from them."""
    from una_ref.policies import loading
    from una_ref.studies import real_data

    data = tmp_path_factory.mktemp("data")
    words = ["red", "green", "blue", "good", "bad", "long", "short", "old", "new", "warm", "cold", "big"]

    def text(*seed):
        draw = random.Random(str(seed))
        return " ".join(draw.choice(words) for _ in range(3 + draw.randrange(4)))

    def write(name, items):
        path = data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)

    for name, (score, highest) in real_data.ULTRAFEEDBACK.items():
        write(
            name,
            (
                {
                    "prompt": text(name, i),
                    "chosen": "good " + text(name, i, 1),
                    "rejected": "bad " + text(name, i, 2),
                    "metadata": {f"{score}_chosen": highest, f"{score}_rejected": 1.0 if i % 3 else highest},
                }
                for i in range(24)
            ),
        )
    write(
        real_data.ALPACA_EVAL,
        (
            {"prompt": f"tune {i // 3} {text('tune', i // 3)}", "response": text("tune", i), "score": i % 3 / 2}
            for i in range(120)
        ),
    )
    for name in (real_data.HH_TRAIN, real_data.HH_TEST):
        start = "\n\nHuman: ask {}\n\nAssistant: {}"
        write(
            name,
            (
                {
                    # The first ten prompts are in both files.
                    "chosen": start.format(text(i if i < 10 else (name, i)), "good " + text(name, i, 1)),
                    "rejected": start.format(text(i if i < 10 else (name, i)), "bad " + text(name, i, 2)),
                }
                for i in range(60)
            ),
        )
    write(
        real_data.LLMBAR,
        (
            {"input": text("l", i), "output_1": text("l", i, 1), "output_2": text("l", i, 2), "label": 2}
            for i in range(9)
        ),
    )
    write(
        real_data.HHH,
        ({"prompt": text("h", i), "chosen": text("h", i, 1), "rejected": text("h", i, 2)} for i in range(9)),
    )
    write(
        "eval/arc_challenge/test.jsonl.gz",
        (
            {
                "question": text("arc", i),
                "choices": {"text": [text("arc", i, j) for j in range(3)], "label": ["A", "B", "C"]},
                "answerKey": "ABC"[i % 3],
            }
            for i in range(9)
        ),
    )
    for split in ("train", "validation"):
        choices = {"text": ["red", "blue"], "label": ["A", "B"]}
        write(f"eval/arc_challenge/{split}.jsonl.gz", [{"question": "q", "choices": choices, "answerKey": "A"}])
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = loading.byte_pair_tokenizer(words, 300)
    model = loading.small_mistral(
        tokenizer, hidden_size=16, intermediate_size=32, num_hidden_layers=1, max_position_embeddings=128
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return data, folder
