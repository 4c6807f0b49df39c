"""A table of bad input. Each is refused with exit code 2 and one line that says where it is, what was expected and
what came, without a traceback, and the folder is left unchanged.
"""

import gzip
import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from una_ref.cli import main
from una_ref.errors import near_path

TINY = ["shape.hidden_size=16", "shape.intermediate_size=16", "shape.num_hidden_layers=1", "vocabulary=300", "lora_r=2"]
RUN = ["steps=4", "save_every=1", "batch=2", "held_out=0", *TINY]
RATINGS = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 2)
PAIR = {"prompt": "p", "chosen": " a", "rejected": " b"}
LABEL = {"prompt": "p", "completion": " a", "label": True}
SCORE = {"prompt": "p", "completion": " a", "score": 0.5}
RATED = {"prompt": "p", "response": "a", **RATINGS}
LIST = {"prompt": "p", "completions": ["a", "b"], "scores": [1, 0]}
PROMPT = {"prompt": "p"}


@dataclass(frozen=True)
class Bad:
    """A command that is refused, what there is when it comes, and what the refusal has to say."""

    name: str
    words: list
    says: tuple
    files: dict = field(default_factory=dict)  # name -> rows, or bytes
    setup: object = None  # setup(kit), in the folder


TABLE: list[Bad] = []


def bad(name, words, *says, files=None, setup=None):
    TABLE.append(Bad(name, words, says, files or {}, setup))


# ---- data


def row(name, method, rows, *says):
    """A file of rows that `method` does not train on."""
    words = ["train", method, "--data", "rows.jsonl", *TINY]
    place = ("rows.jsonl",) if ":" in says[0] and "kto:" not in says[0] else ()
    bad(name, words, *place, *says, files={"rows.jsonl": rows})


row("missing column", "dpo", [{"prompt": "p", "chosen": " a"}], ":1 columns: expected", "the nearest, add completion")
row("near column", "dpo", [{**PROMPT, "chosen": "a", "rejectd": "b"}], ":1 columns: expected", "Fix: for pair,")
row("missing in a later row", "dpo", [PAIR, {**PAIR, "rejected": None}], ":2 rejected: expected a value", "got null")
row("no columns", "dpo", b"{}\n", ":1 columns: expected")
row(
    "another convention later",
    "dpo",
    [PAIR, SCORE],
    ":2 chosen: expected a value, as in rows.jsonl:1 (pair), got no such column in a row of prompt, completion, score",
    "bad_rows=drop",
)
row("text that is a number", "dpo", [PAIR, {**PAIR, "chosen": 3}], ":2 chosen: expected text, got 3 (int)")
row("prompt that is a number", "dpo", [{**PAIR, "prompt": 3}], ":1 prompt: expected text or messages, got 3 (int)")
row("score that is text", "una-score", [{**SCORE, "score": "high"}], ":1 score: expected a finite number, got 'high'")
row("label that is text", "kto", [{**LABEL, "label": "up"}], ":1 label: expected a boolean or a number in [0, 1]")
row("rating of half a point", "una-score", [{**RATED, "coherence": 2.5}], ":1 coherence: expected a whole number")
row("rating out of range", "una-score", [{**RATED, "coherence": 5}], ":1 coherence: expected", "from 0 to 4, got 5")
row("ratings not in twos", "una-score", [RATED, {**RATED, "prompt": "q"}], ":2 prompt: expected the prompt of", "got")
row("a list", "dpo", b"[1]\n", "[0] row: expected an object with columns, got 1 (int)")
bad(
    "empty response",
    ["train", "dpo", "--data", "rows.jsonl", "empty=error", *TINY],
    "rows.jsonl:2 rejected: expected text",
    "Fix: set empty=drop or",
    files={"rows.jsonl": [PAIR, {**PAIR, "rejected": " "}]},
)
row("empty responses alone", "dpo", [{**PAIR, "rejected": " "}], "at least one row, got none, after leaving out")
row("labels for label", "kto", [{**PROMPT, "completion": "a", "labels": True}], ":1 columns:", "columns.label=labels")
row("score beside completions", "sft", [{**PROMPT, "completions": ["a"], "score": [1]}], ":1 columns", "scores=")
row("images", "dpo", [{**PAIR, "images": ["a.png"]}], ":1 images: expected no such column", "Fix: leave these rows out")
row("empty prompt", "dpo", [{**PAIR, "prompt": ""}], ":1 prompt: expected text or messages, got an empty")
row("half a surrogate pair", "dpo", [{**PAIR, "chosen": "\ud83d"}], ":1 chosen: expected valid Unicode text, got")
row("label above 1", "kto", [LABEL, {**LABEL, "label": 1.5}], ":2 label: expected", "got 1.5 (float)")
row("label below 0", "kto", [{**LABEL, "label": -1}], ":1 label: expected", "got -1 (int)")
row("label NaN", "kto", [{**LABEL, "label": math.nan}], ":1 label: expected", "got nan")
row("score NaN", "una-score", [{**SCORE, "score": math.nan}], ":1 score: expected", "got nan")
row("score infinite", "una-score", [SCORE, {**SCORE, "score": math.inf}], ":2 score: expected", "got inf")
row("scores too few", "una-score", [{**LIST, "scores": [1]}], ":1 scores: expected 2, one per response, got 1")
row("completions no list", "una-score", [{**LIST, "completions": "ab"}], ":1 completions: expected a list, got 'ab'")
row(
    "messages without answer",
    "sft",
    [{"messages": [{"role": "user", "content": "p"}]}],
    ":1 messages: expected",
    "got",
)
row("one response for pairs", "dpo", [SCORE], "at least one usable row for dpo, got sc", "1 prompts with one response")
row("one label for pairs", "dpo", [LABEL], "at least one usable row for dpo, got labels", "1 prompts with one response")
row("two positive labels for pairs", "dpo", [LABEL] * 2, "at least one usable row", "without a positive and a negative")
row("one score for its group", "una-centred", [SCORE], ":1 scores: expected two or more responses", "got one")
row("pairs for scores", "una-score", [PAIR], ":1 feedback: expected scores for una-score, got a row of pairs")
row("one prompt for kto", "kto", [LABEL, LABEL], "kto: expected at least two different prompts", "got one")
row("prompts alone offline", "dpo", [PROMPT], ":1 columns: expected", "prompts alone are for online runs")
row(
    "broken JSON",
    "dpo",
    json.dumps(PAIR).encode() + b'\n{"prompt": "p", \n',
    ":2 line: expected JSON, got broken JSON",
)
row("thousands of brackets", "dpo", b"[" * 100_000, ":1 line: expected JSON, got RecursionError")
row("thousands of digits", "dpo", b'{"prompt": ' + b"9" * 5000 + b"}", ":1 line: expected JSON, got ValueError")
row("not UTF-8", "dpo", b"\xff\n", ":1 line: expected UTF-8 text, got byte 0xff")
row("binary", "dpo", bytes(range(256)) * 9, ":1 line: expected JSON, got broken JSON")
row("gzip without its name", "dpo", gzip.compress(b"{}", mtime=0), ":1 line: expected UTF-8 text, got byte 0x8b")
row("empty file", "dpo", b"", "file: expected at least one row, got an empty file")


def data(name, file, content, *says):
    bad(
        name, ["train", "dpo", "--data", file, *TINY], file, *says, files={file: content} if content is not None else {}
    )


WHOLE = gzip.compress((json.dumps(PAIR) + "\n").encode() * 1000, mtime=0)
data("gzip cut short", "a.jsonl.gz", WHOLE[:-20], "file: expected a whole, readable file, got")
data("no gzip", "a.jsonl.gz", b"{}\n", ":1 file: expected a whole, readable file, got Not a gzipped file")
data("an object without a list", "a.json", b"{\n}", "file: expected a list of rows, got dict. Fix: write one object a")
data("a list in an object", "a.json", b'{"data": [{"prompt": "p"}]}', ":1 columns:", "if data has the rows, write")
data("another kind of file", "a.txt", b"prompt\np\n", "file: expected a name that ends in .jsonl or", "got a.txt")
data("a table with a short row", "a.csv", b"prompt,chosen,rejected\np,a,b\nq\n", ":3 line: expected 3 cells", "got 1")
data("no such table", "data/pairs.csv", None, "data: expected a file, a folder or a hub name", "no such file or folder")
data("no such file", "nowhere.jsonl", None, "data: expected a file, a folder or a hub name", "no such file or folder")
data("no such data set", "no/where", None, "data: expected a data set that loads, with a split 'train', got")
bad(
    "misspelt file",
    ["train", "dpo", "--data", "pair.jsonl"],
    "pair.jsonl data: expected a file",
    "did you mean pairs.jsonl?",
    files={"pairs.jsonl": [PAIR]},
)
bad(
    "empty folder",
    ["train", "dpo", "--data", "empty"],
    "empty data: expected a folder with data files, got a folder without files",
    setup=lambda kit: Path("empty").mkdir(),
)
bad(
    "misspelt ToySteer",
    ["train", "dpo", "data=toysteer/pair"],
    "got 'toysteer/pair'; did you mean toysteer/pairs?",
)
bad(
    "ToySteer beside a file",
    ["train", "sft", "data=toysteer/demonstrations,rows.jsonl"],
    "toysteer/verdicts, got 'rows.jsonl'",
)
bad(
    "all rows too long",
    ["train", "dpo", "--data", "rows.jsonl", "max_length=2", *TINY],
    "data: expected at least one row that fits max_length=2, got",
    files={"rows.jsonl": [{**PAIR, "prompt": "a long prompt"}]},
)
bad(
    "two files of one kind each, as one list",
    ["train", "kto", "--data", "a.jsonl", "--data", "b.jsonl", *TINY],
    "b.jsonl:1 feedback: expected labels",
    files={
        "a.jsonl": [LABEL],
        "b.jsonl": [{"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}],
    },
)

# ---- models


def model(name, setup, *says, words=()):
    """A folder `model` that is none; setup(kit, folder) spoils a good one."""

    def spoilt(kit):
        shutil.copytree(kit.model, "model")
        setup(Path("model"))

    command = ["train", "dpo", "--data", "pairs.jsonl", "--model", "model", *words]
    bad(name, command, "model", "expected", *says, files={"pairs.jsonl": [PAIR] * 2}, setup=spoilt)


def edited(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path, by=1000):
    path.write_bytes(path.read_bytes()[:-by])


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def pickled(folder):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def headless(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_tokens(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<im_start>"])
    tokenizer.save_pretrained(folder)


def endless(folder):
    edited(folder / "tokenizer_config.json", eos_token=None)


model("config that is no JSON", lambda folder: (folder / "config.json").write_text("{"), "got: ", "config.json")
model("config of nobody's model", lambda folder: edited(folder / "config.json", model_type="stranger"), "stranger")
model("config of other sizes", lambda folder: edited(folder / "config.json", hidden_size=32), "got: ")
model("weights cut short", lambda folder: cut(folder / "model.safetensors"), "got: ")
model("no weights", without("model.safetensors"), "got: ", "model.safetensors")
model("a pickle for weights", pickled, "safetensors")
model("no head", headless, "got: weights without lm_head.weight")
model("no tokenizer", without("tokenizer.json", "tokenizer_config.json"), "got: ")
model("tokenizer that is no tokenizer", lambda folder: (folder / "tokenizer.json").write_text("{}"), "got: ")
model("more tokens than embeddings", with_tokens, "token ids below", "for '<im_start>'")
model("no end of sequence", endless, "tokenizer 'model': expected one with an EOS token, got none")
model(
    "no such modules",
    lambda folder: None,
    "lora_targets: expected modules of the model, got 'no'",
    words=["lora_targets=no"],
)
PAIRS = {"pairs.jsonl": [PAIR] * 2}
for name, value, says in (
    ("no such model", "nowhere", "model 'nowhere': expected a folder or hub name with config"),
    ("no such path", "./nowhere", "model './nowhere': expected a folder or hub name, got a path where nothing is"),
):
    bad(name, ["train", "dpo", "--data", "pairs.jsonl", "--model", value], says, files=PAIRS)
bad(
    "empty model",
    ["train", "dpo", "--data", "pairs.jsonl", "--model", "empty"],
    "model 'empty': expected",
    files=PAIRS,
    setup=lambda kit: Path("empty").mkdir(),
)
bad(
    "sizes that do not fit",
    ["train", "dpo", "--data", "pairs.jsonl", *TINY, "shape.num_attention_heads=3"],
    "shape: expected sizes of a Mistral, got",
    files=PAIRS,
)


def gone(kit):
    Path("adapter").mkdir()
    told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "/gone/base"}
    Path("adapter/adapter_config.json").write_text(json.dumps(told))


bad("an adapter without its base", ["train", "dpo", "--data", "pairs.jsonl", "--model", "adapter"], "model 'adapter'",
    "/gone/base", files=PAIRS, setup=gone)  # fmt: skip

# ---- configs

for what, settings, says in (
    ("dpoo", [], "did you mean dpo?"),
    ("una-scor", [], "did you mean una-score?"),
    ("DPO", [], "did you mean dpo?"),
    ("toysteer/bas", [], "did you mean toysteer/base?"),
    ("../config", [], "expected a method, a recipe or a .yaml file"),
    ("dpo", ["stepz=3"], "stepz: unknown key of dpo; did you mean steps?"),
    ("kto", ["desirable_weigth=3"], "did you mean desirable_weight?"),
    ("dpo", ["desirable_weight=3"], "desirable_weight: unknown key of dpo; it is a key of kto"),
    ("dpo", ["bata=3"], "bata: unknown key of dpo; did you mean beta or data?"),
    ("dpo", ["method=kto"], "method: unknown key"),
    ("dpo", ["lr.x=1"], "lr.x: unknown key of dpo"),
    ("dpo", ["learning_rate=1e-5"], "learning_rate: unknown key of dpo. Fix: use lr"),
    ("nowhere.yaml", [], "nowhere.yaml: expected a YAML file, got no such file"),
    ("shared/iupo", [], "expected a method, a recipe"),
    ("dpo", ["steps"], "'steps': expected key=value"),
    ("dpo", ["steps=many"], "steps: expected a whole number at least 1, got 'many'"),
    ("dpo", ["steps=1.5"], "steps: expected a whole number at least 1, got '1.5'"),
    ("dpo", ["steps=0"], "steps: expected a whole number at least 1, got 0"),
    ("dpo", ["rows=x"], "rows: expected a whole number at least 1 or null, got 'x'"),
    ("dpo", ["layout=pack"], "layout: expected one of auto, packed, padded, got 'pack'; did you mean packed?"),
    ("dpo", ["group=perhaps"], "group: expected true or false, got 'perhaps'"),
    ("dpo", ["lr=nan"], "lr: expected a number at least 0 or null, got nan"),
    ("dpo", ["lr=-1"], "lr: expected a number at least 0 or null, got -1.0"),
    ("dpo", ["beta=x"], "beta: expected a number above 0, got 'x'"),
    ("dpo", ["beta=nan"], "beta: expected a number above 0, got nan"),
    ("dpo", ["beta=0"], "beta: expected a number above 0, got 0.0"),
    ("cdpo", ["label_smoothing=0.5"], "label_smoothing: expected a number at least 0 and below 0.5, got 0.5"),
    ("f-dpo", ["divergence=jss"], "chi2, hellinger, got 'jss'; did you mean js?"),
    ("iupo", ["divergence=3"], "divergence: expected one of reverse_kl, "),
    ("f-dpo", ["divergence=tv"], "divergence=tv: expected one with a gradient"),
    ("f-dpo", ["divergence=alpha", "alpha=1"], "alpha: expected a number between 0 (reverse_kl) and 1 (forward_kl)"),
    ("dpo", ["divergence=js"], "divergence: unknown key"),
    ("dpo", ["form=printd"], "form: expected one of corrected, printed, released, got 'printd'; did you mean printed?"),
    ("cdpo", ["form=released"], "form: cdpo has no released form"),
    ("dpo", ["threshold=high"], "threshold: expected a finite number or median, got 'high'"),
    ("dpo", ["warmup=2"], "warmup: expected a number at least 0 and at most 1, got 2.0"),
    ("dpo", ["held_out=1"], "held_out: expected a number at least 0 and below 1, got 1.0"),
    ("dpo", ["shape.hiden_size=3"], "sliding_window, got 'hiden_size'; did you mean hidden_size?"),
    ("dpo", ["shape.hidden_size=x"], "shape.hidden_size: expected a whole number at least 1, got 'x'"),
    ("dpo", ["shape=3"], "shape: expected names with values, each a whole number at least 1, got 3"),
    ("dpo", ["patience=3"], "patience: expected evaluations to count, got eval_every=0"),
    ("dpo", ["samples=8"], "samples: applies only to online runs, and dpo is offline"),
    ("dpo", ["--reward", "runs/judge"], "reward: applies only to online runs, and dpo is offline"),
    ("kto", ["--online"], "online: expected a method that learns from scores, got kto"),
    ("rloo", ["replay=3"], "replay: rloo: expected 0, since its gradient holds for fresh samples only, got 3"),
    ("rloo", ["temperature=0.7"], "temperature: rloo: expected 1, since rloo is right on policy only, got 0.7"),
    ("una-online", ["critic=head"], "critic: una-online: expected a method that values tokens"),
    ("ppo", ["kl_target=1", "kl_horizon=1"], "kl_horizon: expected at least 26 for 128 responses a step"),
    ("iterative-dpo", ["samples=1"], "samples: iterative-dpo: expected two or more"),
):  # fmt: skip
    bad(f"train {what} {' '.join(settings)}".rstrip(), ["train", what, *settings], says)
bad("no such method", ["methods", "kt0"], "no method is called 'kt0'; did you mean kto?")
bad("no such claim", ["claims", "CU555"], "claim 'CU555': unknown", "did you mean CU5")
bad(
    "an axis of nothing",
    ["compare", "--axis", "offset"],
    "axis offset: expected a study with axes. Fix: add --online or --model",
)

# ---- outputs

TRAIN = ["train", "dpo", "--data", "pairs.jsonl", *RUN]
SCORING = ["score", "--data", "pairs.jsonl", "--reward", f"{__name__}:lengths"]


def output(name, setup, *says, where="out", words=TRAIN):
    bad(name, [*words, "--output", where], f"output {where}: expected", *says, files=PAIRS, setup=setup)


def foreign(kit):
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("mine")


def link(kit):
    Path("out").symlink_to("nowhere")


output("a file for a folder", lambda kit: Path("out").write_text("mine"), "a folder, got a file")
output("a link to nothing", link, "a folder, got a file")
output("below a file", None, "a folder to write to, got: Not a directory", where="pairs.jsonl/out")
output("a name too long", None, "a folder to write to, got: File name too long", where="o" * 300)
output("somebody's folder", foreign, "an empty folder or an earlier run's, got one with other files")
output(
    "scores over a file",
    lambda kit: Path("s.jsonl").write_text(""),
    "a new file, got one",
    where="s.jsonl",
    words=SCORING,
)
output("scores below a file", None, "a file in a folder, got: ", where="pairs.jsonl/s", words=SCORING)

# ---- resuming


def resume(name, spoil, *says, words=TRAIN):
    """A run that was killed behind its second step; spoil(folder) before it goes on."""

    def begun(kit):
        shutil.copytree(kit.killed, "out")
        spoil(Path("out"))

    rows = [{**PAIR, "prompt": f"p{i}"} for i in range(4)]
    bad(name, [*words, "--output", "out"], "out", "expected", *says, files={"pairs.jsonl": rows}, setup=begun)


def checkpoint(change):
    """Change a checkpoint's (tensors, metadata) in place."""

    def spoil(folder):
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        path = folder / "checkpoint.safetensors"
        with safe_open(path, "pt") as file:
            about = file.metadata()
        tensors = load_file(path)
        change(tensors, about)
        save_file(tensors, path, about)

    return spoil


def other_model(tensors, about):
    for name in [name for name in tensors if name.startswith("trained/")]:
        tensors[name.replace("q_proj", "qkv_proj")] = tensors.pop(name)


def other_rows(folder):
    rows = [{**PAIR, "prompt": f"q{i}"} for i in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


CHECKPOINT = "out/checkpoint.safetensors: "
resume(
    "another version",
    checkpoint(lambda _, about: about.update(format="2")),
    CHECKPOINT,
    "format: expected '6', got '2'",
)
resume("no version", checkpoint(lambda _, about: about.pop("format")), CHECKPOINT, "format: expected '6', got None")
resume("another model", checkpoint(other_model), CHECKPOINT, "the parameters of this model, got those of another")
resume("no moments", checkpoint(lambda tensors, _: tensors.pop("more")), CHECKPOINT, "a whole checkpoint, got")
resume("other data", other_rows, "out: pairs.jsonl: expected the file that the run in it has read", "Fix: choose")
resume(
    "a checkpoint cut short",
    lambda folder: cut(folder / "checkpoint.safetensors", 50),
    CHECKPOINT,
    "a whole checkpoint",
)
resume(
    "garbage",
    lambda folder: (folder / "checkpoint.safetensors").write_bytes(b"garbage"),
    CHECKPOINT,
    "a whole checkpoint",
)
resume(
    "an empty checkpoint", lambda folder: (folder / "checkpoint.safetensors").write_bytes(b""), CHECKPOINT, "a whole"
)
resume(
    "another config",
    lambda folder: None,
    "output out: lr: expected 0.001 as in the run",
    "got 0.5",
    words=[*TRAIN, "lr=.5"],
)
resume(
    "a record cut short", lambda folder: cut(folder / "run.json", 50), "out/run.json: expected the record of a run, got"
)
resume(
    "a record of nothing", lambda folder: (folder / "run.json").write_text("[]"), "out/run.json: expected the record of"
)

# ---- rewards


def lengths(answers):
    return [len(answer.response) for answer in answers]


def raising(answers):
    raise ZeroDivisionError("by nothing")


def short(answers):
    return [1.0] * (len(answers) - 1)


def nothing(answers):
    return [math.nan] * len(answers)


def words_for(answers):
    return ["good"] * len(answers)


def number(answers):
    return 3.0


def silent(answers):
    return [None] * len(answers)


def policy_folder(kit):
    shutil.copytree(kit.model, "policy")


def two_outputs(kit):
    classifier(kit, 2)


def headless_classifier(kit):
    from safetensors.torch import load_file, save_file

    classifier(kit, 1)
    weights = load_file("judge/model.safetensors")
    del weights["score.weight"]
    save_file(weights, "judge/model.safetensors", {"format": "pt"})


def classifier(kit, outputs):
    from transformers import AutoConfig, MistralForSequenceClassification

    shutil.copytree(kit.model, "judge")
    config = AutoConfig.from_pretrained("judge")
    config.num_labels = outputs
    MistralForSequenceClassification(config).save_pretrained("judge")


def reward(name, given, *says, setup=None):
    """A reward that is none, online and in `una-ref score`."""
    rolled = [*TINY, "max_response=4", "samples=2", "batch=2", "held_out=0", "steps=2"]
    for how, command in (
        ("online", ["train", "rloo", "--data", "pairs.jsonl", "--reward", given, *rolled]),
        ("score", ["score", "--data", "pairs.jsonl", "--reward", given, "--output", "s.jsonl"]),
    ):
        rows = {"pairs.jsonl": [PAIR, {**PAIR, "prompt": "q"}]}
        bad(f"{name}, {how}", command, *says, files=rows, setup=setup)


def function(name, given, *says):
    reward(name, f"{__name__}:{given}", f"reward {__name__}:{given}: ", *says)


NOTHING = "expected a sequence-classification model, got: "
reward("no such module", "no_such_module:f", "reward 'no_such_module:f': expected module:function, got: No module")
reward("no such function", "math:no_such", "reward 'math:no_such': expected module:function, got: ")
reward("a file for a module", "./rewards.py:mine", "reward './rewards.py:mine': expected module:function, got")
reward("a judge without a place", "judge:model", "expected judge:MODEL@http://host:port/v1, got")
function("a reward that raises", "raising", "raised ZeroDivisionError: by nothing")
function("too few numbers", "short", "expected 4 numbers, got 3")
function("NaN", "nothing", "expected a finite number, got nan for the response")
function("words for numbers", "words_for", "expected a list of 4 numbers, got")
function("a number for a list", "number", "expected a list of 4 numbers, got")
function("no answer", "silent", "expected scores, got none for")
reward(
    "one of several", f"{__name__}:lengths,{__name__}:nothing", f"reward {__name__}:nothing: expected a finite number"
)
reward("no ToySteer", "toysteer", "reward toysteer: expected ToySteer's prompts, got other data")
reward("a misspelt folder", "judgee", "reward 'judgee': expected", "did you mean judge?", setup=two_outputs)
reward("a misspelt path", "./judgee", "got a path where nothing is; did you mean judge?", setup=two_outputs)
reward("a policy", "policy", "reward 'policy': expected", "got MistralForCausalLM, a policy", setup=policy_folder)
reward("an adapter of a policy", "adapter", "got an adapter of task CAUSAL_LM, a policy", setup=gone)
reward("two outputs", "judge", "reward 'judge': expected one output, got 2", setup=two_outputs)
reward("no head", "judge", f"reward 'judge': {NOTHING}weights without score.weight", setup=headless_classifier)
reward("nothing in it", "empty", f"reward 'empty': {NOTHING}", setup=lambda kit: Path("empty").mkdir())
reward("no hub model", "no/such-model", f"reward 'no/such-model': {NOTHING}")
bad(
    "prompts alone, and a reward that nobody looked for yet",
    ["score", "--data", "p.jsonl", "--reward", "judgee", "--output", "s.jsonl"],
    "p.jsonl:1 columns: expected",
    "prompts alone are for online runs",
    files={"p.jsonl": [PROMPT]},
)

# ---- other commands on a finished run


def on_run(name, words, *says, files=None, setup=None):
    """A command beside a folder `run`, a finished run; setup(kit) spoils it."""

    def prepared(kit):
        shutil.copytree(kit.run, "run")
        if setup:
            setup(kit)

    bad(name, words, *says, files=files, setup=prepared)


def evaluated(name, words, *says, **more):
    on_run(f"evaluate: {name}", ["evaluate", "run", *words], *says, **more)


def generated(name, words, *says, **more):
    on_run(f"generate: {name}", ["generate", "run", *words], *says, **more)


def merged(name, words, *says, **more):
    on_run(f"merge: {name}", ["merge", *words, "--output", "merged"], *says, **more)


def logged(text):
    return lambda kit: Path("run/metrics.jsonl").write_text(text)


ASKED = {"p.jsonl": [PROMPT]}
evaluated("no task", ["--tasks", ""], "tasks: expected one or more of open-llm-v1, ", "got none")
evaluated("a misspelt task", ["--tasks", "arcc"], "task 'arcc': unknown; did you mean arc?")
evaluated("a limit of 0", ["--tasks", "arc", "--limit", "0"], "limit: expected 1 or more, got 0")
evaluated("negative shots", ["--tasks", "arc", "--shots", "-1"], "shots: expected 0 or more, got -1")
evaluated("a batch of 0", ["--tasks", "arc", "--batch", "0"], "batch: expected 1 or more, got 0")
evaluated("no new token", ["--tasks", "ifeval", "--max-new", "0"], "max-new: expected 1 or more, got 0")
evaluated("chat or not", ["--tasks", "arc", "--chat", "maybe"], "chat: expected auto, yes or no, got 'maybe'")
evaluated("a strange dtype", ["--tasks", "arc", "--dtype", "float8"], "dtype: expected float32, ", "got 'float8'")
evaluated("no data folder", ["--tasks", "arc", "--data-dir", "no"], "data-dir no: expected a folder, got none")
evaluated(
    "nothing in the data folder", ["--tasks", "arc", "--data-dir", "."], "task arc: expected its data in", "got no"
)
evaluated("no judge", ["--tasks", "mt-bench"], "task mt-bench: expected a judge, got none. Fix: --judge judge:MODEL@")
evaluated("a judge without a place", ["--tasks", "mt-bench", "--judge", "m"], "judge 'm': expected judge:MODEL@http")
evaluated("a reward without a name", ["--tasks", "reward:"], "task reward: expected reward:NAME, got no name")
evaluated("nothing held out", ["--tasks", "reward:math:sqrt"], "run.json: expected a run with held-out prompts, got",
          "Fix: --prompts FILE", files={"pairs.jsonl": [{**PAIR, "prompt": f"p{i}"} for i in range(4)]})  # fmt: skip
evaluated(
    "no prompts", ["--tasks", "reward:math:sqrt", "--prompts", "no.jsonl"], "no.jsonl data: expected a file, a folder"
)
evaluated("nothing to compare with", ["--tasks", "arc", "--against", "no"], "against 'no': expected finished results")
generated("nothing asked", [], "generate: expected a line to answer or --data FILE, got neither")
generated(
    "asked twice", ["hello", "--data", "p.jsonl"], "expected a line to answer or --data FILE, got both", files=ASKED
)
generated("nowhere to write", ["--data", "p.jsonl"], "generate: expected --output FILE for the answers", files=ASKED)
generated("over a file", ["--data", "p.jsonl", "--output", "o.jsonl"], "output o.jsonl: expected a new file, got one",
          files={**ASKED, "o.jsonl": b"x"})  # fmt: skip
generated("an empty file", ["--data", "p.jsonl", "--output", "o.jsonl"], "at least one row, got an empty file",
          files={"p.jsonl": b""})  # fmt: skip
generated("an empty line", [""], "expected text or messages, got an empty prompt ''")
generated("no samples", ["hello", "--samples", "0"], "samples: expected a number of at least 1, got 0")
generated(
    "two greedy samples", ["hello", "--samples", "2", "--temperature", "0"], "samples: expected 1 at temperature 0"
)
generated(
    "a temperature of nan", ["hello", "--temperature", "nan"], "temperature: expected a number of at least 0, got"
)
generated("no room", ["hello", "--max-new", "100000000"], "expected prompt and answer within the model's", "positions")
generated("no template", ["hello", "--template", "no.jinja"], "template no.jinja: expected a text file with a chat")
generated("a broken template", ["hello", "--template", "t.jinja"], "messages that the chat template takes, got roles",
          files={"t.jinja": b"{% if %}"})  # fmt: skip
merged("nothing", ["nowhere"], "merge nowhere: expected a folder with adapter_config.json", "got no such folder")
merged(
    "a base", ["run/base"], "merge run/base: expected a folder with adapter_config.json and adapter_model", "without"
)
merged("a run and itself", ["run", "run"], "merge: expected different runs, got run,run")
merged("a misspelt way", ["run", "run", "--method", "tie"], "method: expected one of linear", "did you mean ties?")
merged("a density above 1", ["run", "run", "--density", "2"], "density: expected a number at least 0 and at most 1")
merged("somebody's folder", ["run"], "output merged: expected an empty folder or an earlier run's",
       setup=lambda kit: Path("merged").mkdir() or Path("merged/thesis.txt").write_text("mine"))  # fmt: skip
on_run("explain: no log", ["explain", "run"], "metrics.jsonl: expected a logged step", setup=logged(""))
on_run("explain: a broken log", ["explain", "run"], "metrics.jsonl: expected a logged step", setup=logged('{"step": '))
bad("explain: no run", ["explain", "nowhere"], "run 'nowhere': expected a run's folder, with run.json, got none")
bad(
    "generate: no model", ["generate", "nowhere", "hello"], "model 'nowhere': expected a folder or hub name with config"
)
bad("report: no such table", ["report", "--table", "7"], "report '7': expected a table or a folder", "one of 1, 2, 3")
bad("compare: a file for a folder", ["compare", "--quick", "--output", "f"], "output f: expected a folder, got a file",
    files={"f": b"x"})  # fmt: skip
bad("compare: no base", ["compare", "--quick", "--base", "no"], "base no: expected a folder with model.safetensors")
bad(
    "compare: two bases",
    ["compare", "--model", "smollm2", "--base", "x"],
    "model: expected no --base",
)

# ---- a look at data


def looked(name, words, *says, files=None):
    bad(name, words, *says, files=files or PAIRS)


looked("data: no file", ["data", "no.jsonl"], "no.jsonl data: expected a file, a folder or a hub name")
looked(
    "data: no method", ["data", "pairs.jsonl", "--method", "dpoo"], "expected a method, a recipe", "did you mean dpo?"
)
looked("data: no key", ["data", "pairs.jsonl", "stepz=3"], "stepz: unknown key", "did you mean steps?")
looked(
    "data: no model", ["data", "pairs.jsonl", "--model", "no"], "model 'no': expected a folder or hub name with config"
)
looked("inspect: no file", ["inspect", "no.jsonl"], "no.jsonl data: expected a file, a folder or a hub name")
looked("inspect: no rows", ["inspect", "pairs.jsonl", "--rows", "0"], "--rows: expected at least 1, got 0")
looked(
    "inspect: over the data", ["inspect", "pairs.jsonl", "--html", "pairs.jsonl"], "--html: expected a name that ends"
)
looked("inspect: no folder", ["inspect", "pairs.jsonl", "--html", "no/p.html"], "--html: expected a folder that exists")
bad("compare: no workers", ["compare", "--quick", "--workers", "0"], "workers: expected at least 1, got 0")
looked(
    "inspect: no model", ["inspect", "pairs.jsonl", "--model", "no"], "model 'no': expected a folder or hub name with"
)
for key, value, says in (
    ("columns.choosen", "better", "got 'choosen'; did you mean chosen?"),
    ("columns.chosen", "better", ":1 columns: expected a column better, since columns.chosen=better, got prompt"),
    ("template", "no.jinja", "template: expected a file, Jinja text or none, got 'no.jinja'"),
    ("template", "t.jinja", ":1 prompt: expected messages that the chat template takes"),
    ("eval_data", "no.jsonl", "no.jsonl data: expected a file, a folder or a hub name"),
    ("bad_rows", "skip", "bad_rows: expected one of error, drop, got 'skip'"),
    ("empty", "skip", "empty: expected one of drop, error, keep, got 'skip'"),
    ("schedule", "lineal", "schedule: expected one of cosine, linear, constant, got 'lineal'; did you mean linear?"),
    ("warmup_steps", "-1", "warmup_steps: expected a whole number at least 0 or null, got -1"),
    ("batch", "0", "batch: expected a whole number at least 1, got 0"),
    ("micro_tokens", "0", "micro_tokens: expected a whole number at least 1, got 0"),
    ("seed", "-1", "seed: expected a whole number at least 0 and at most 4294967295, got -1"),
    ("dtype", "fp8", "dtype: expected one of float32, bfloat16, float64, got 'fp8'"),
    ("losses", "dpo:0.5,no:0.5", "losses: expected methods with weights, such as dpo:0.8,sft:0.2, got 'no'"),
):
    files = {**PAIRS, "t.jinja": b"{% for %}"}
    bad(
        f"train dpo {key}={value}",
        ["train", "dpo", "--data", "pairs.jsonl", f"{key}={value}", *TINY],
        says,
        files=files,
    )
bad(
    "evaluation beside held-out rows",
    ["train", "dpo", "--data", "pairs.jsonl", "eval_data=pairs.jsonl", "held_out=0.5", *TINY],
    "held_out: expected its default beside eval_data, got 0.5. Fix: leave one of them out",
    files=PAIRS,
)
for name, text, says in (
    ("no YAML", b"a: [1", "x.yaml: expected a readable YAML file, got: while parsing"),
    ("a list for a config", b"- 1", "x.yaml: expected key: value lines, got list"),
    ("an unknown key in a config", b"method: dpo\nlearningrate: 3", "x.yaml: learningrate: unknown key of dpo"),
    ("a config without a method", b"lr: 3", "x.yaml: method: expected the name of a method, got none. Fix: add method"),
    ("a number for stages", b"stages: 3", "x.yaml: stages: expected named steps, each with its keys, got 3"),
):
    bad(name, ["train", "x.yaml"], says, files={"x.yaml": text})
bad(
    "a folder of two kinds",
    ["train", "dpo", "--data", ".", *TINY],
    ". data: expected files of one kind, got a.csv and b.jsonl. Fix: name the files",
    files={"b.jsonl": [PAIR], "a.csv": b"prompt,chosen,rejected\np,a,b\n"},
)
data("no Parquet", "a.parquet", b"PAR1xxxx", "file: expected a whole, readable Parquet file, got")
model_words = ["train", "dpo", "--data", "pairs.jsonl", "--model"]
bad("no GGUF", [*model_words, "m.gguf"], "model 'm.gguf': expected a GGUF file of a language model", "magic bytes",
    files={**PAIRS, "m.gguf": b"x"})  # fmt: skip


# ---- the test


@dataclass(frozen=True)
class Kit:
    """What is made once, and copied before it is spoilt: a model, a finished run, and a run that was killed."""

    model: Path
    run: Path
    killed: Path


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    from una_ref.training.trainer import Trainer

    folder = tmp_path_factory.mktemp("kit")
    rows = "".join(json.dumps({**PAIR, "prompt": f"p{i}"}) + "\n" for i in range(4))
    (folder / "pairs.jsonl").write_text(rows)
    true = Trainer.step

    def step(self, number, *arguments, **more):
        if number == 2:
            raise MemoryError("as if killed")
        return true(self, number, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*TRAIN, "--output", "whole"]) == 0
        patch.setattr(Trainer, "step", step)
        with pytest.raises(MemoryError):
            main([*TRAIN, "--output", "killed"])
    return Kit(folder / "whole" / "base", folder / "whole", folder / "killed")


def standing(folder):
    """Everything that is there, with its content."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def test_every_bad_input_has_a_name_of_its_own():
    assert len({case.name for case in TABLE}) == len(TABLE) >= 250


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_bad_input_is_refused_by_name_and_changes_nothing(case, kit, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, content in case.files.items():
        lines = content if isinstance(content, bytes) else "".join(json.dumps(row) + "\n" for row in content).encode()
        Path(name).write_bytes(lines)
    if case.setup:
        case.setup(kit)
    before = standing(tmp_path)
    capsys.readouterr()
    assert main(case.words) == 2
    said = capsys.readouterr()
    # The one kind of refusal with a traceback is that of the user's own function, below the line.
    line = next(line for line in said.err.splitlines()[::-1] if line.startswith("una-ref: "))
    traced = "a reward that raises" in case.name
    assert said.out == "" and ("Traceback" in said.err) == traced and traced == (line != said.err.splitlines()[-1])
    for part in case.says:
        assert part in line, line
    assert standing(tmp_path) == before


def test_a_live_run_keeps_its_output_to_itself(tmp_path, monkeypatch, capsys):
    from una_ref.training.checkpoints import claimed

    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    with claimed(Path("out"), {}):
        assert main([*TRAIN, "--output", "out"]) == 2
        assert "output out: expected to be alone there, got a live run" in capsys.readouterr().err


def test_the_hint_is_never_the_name_that_was_given(tmp_path):
    there = tmp_path / "judge"
    there.mkdir()
    assert near_path(str(there)) == ""
    assert near_path(f"{there}e") == f"; did you mean {there}?"
