"""The online study on a real language model at tiny size: every run from start to end, resumed, reported and lost."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from una_ref.cli import main
from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.classifier import Classifier
from una_ref.studies import real_measures as measures
from una_ref.studies import real_online, real_online_runs
from una_ref.studies.engine import carry_out, choose
from una_ref.studies.real_data import Size, same_prompt
from una_ref.studies.real_online import REAL_ONLINE, TUNED, candidates, figure, negative_objective, results, summary
from una_ref.studies.real_online_runs import (
    BY_NAME,
    ENTRIES,
    HEADER,
    METERED,
    OnlineTraining,
    RealOnlineSettings,
    measured_at,
)
from una_ref.studies.real_rewards import RewardModel
from una_ref.studies.real_settings import RealSettings
from una_ref.studies.real_work import measure, part_of, weights_name, work_folder
from una_ref.studies.run_store import RunStore

TINY = RealOnlineSettings(
    sizes={
        "scores": Size(8, 4),
        "pairs": Size(8, 8),
        "tuning": Size(4, 4),
        "reward": Size(8, 4),
        "proxy": Size(8, 0),
    },
    batch=4,
    lora_r=2,
    updates=4,
    tuning_updates=3,
    rollout=2,
    samples=2,
    new_tokens=4,
    points=2,
    prompts=3,
    curve_prompts=2,
    seeds=(0,),
    lrs=(1e-2, 1e-1),
)


@pytest.fixture
def tiny(real_folders, tmp_path, monkeypatch, threads):
    """The study at tiny size: `tiny(**options)` carries it out in tmp_path/study."""
    data, base = real_folders
    monkeypatch.setenv("UNA_REF_DATA", str(data))
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))

    def run(study=REAL_ONLINE, settings=TINY, **options):
        return carry_out(study, tmp_path / "study", settings=settings, base=base, workers=1, **options)

    return run


@pytest.fixture
def few(monkeypatch):
    """The study with two entries."""
    chosen = [entry for entry in ENTRIES if entry.name in ("rloo", "ppo")]
    for module in (real_online, real_online_runs):
        monkeypatch.setattr(module, "ENTRIES", chosen)
    monkeypatch.setattr(real_online, "TUNED", chosen)


def counting(stop_after=10**6):
    """The study with a measure that counts, and stops after so many runs; and the keys of the runs."""
    keys = []

    def counted(run, settings, base):
        if len(keys) == stop_after:
            raise RuntimeError("the power went off")
        keys.append(run.key)
        return measure(run, settings, base)

    return replace(REAL_ONLINE, measure=counted), keys


def lines(tmp_path):
    every = [json.loads(line) for line in (tmp_path / "study" / "runs.jsonl").read_text().splitlines()[1:]]
    return {line["key"]: line for line in every}


# ---- the declaration


def test_entries_are_the_papers_with_a_rate_for_each():
    names = [entry.name for entry in ENTRIES]
    assert names == ["rloo", "una-online", "una-centred", "una-online.released", "ppo", "una-centred.replay"]
    for entry in ENTRIES:
        assert (entry.tuned_as or entry.name) in {tuned.name for tuned in TUNED}
    assert len(candidates(RealOnlineSettings())) == 5


def test_replay_learns_from_as_many_samples_after_a_rollout_as_ppo():
    settings, ppo, replay = RealOnlineSettings(), BY_NAME["ppo"].config, BY_NAME["una-centred.replay"].config
    assert replay["replay_batch"] * replay["passes"] == settings.rollout * ppo["passes"]
    assert replay["replay"] >= settings.updates  # every rollout is kept


def test_the_header_names_what_a_run_depends_on_and_no_list_of_runs():
    assert {*RealOnlineSettings.__dataclass_fields__} - {*HEADER} == {"seeds", "tuning_seed", "lrs"}


def test_no_tuning_run_shares_a_seed_or_a_held_out_prompt_with_the_tables():
    settings = RealOnlineSettings()
    assert settings.tuning_seed not in settings.seeds
    assert settings.sizes["pairs"].held_out >= 2 * settings.prompts
    assert settings.sizes["pairs"].train >= settings.updates * settings.rollout


def test_a_run_is_measured_at_equal_distances_and_at_its_end():
    assert measured_at(20, 4) == {5, 10, 15, 20} and measured_at(0, 4) == {0} and measured_at(3, 2) == {2, 3}


# ---- from start to end


@pytest.mark.slow
def test_a_study_in_two_halves_computes_every_run_once(tiny, few, tmp_path):
    stopped, first = counting(stop_after=7)
    with pytest.raises(RuntimeError, match="power"):
        tiny(stopped)
    half = tiny(report=True)
    assert [row["finished"] for row in half["rows"]] == [1, 0, 0] and half["rows"][0]["rewards_mean"]
    assert "not run" in (tmp_path / "study" / "table.md").read_text() and len(lines(tmp_path)) == 7
    study, second = counting()
    found = tiny(study)
    assert not {*first} & {*second} and len(first) + len(second) == len(lines(tmp_path)) == 12
    again, third = counting()
    assert tiny(again)["rows"] == found["rows"] and third == []
    assert tiny(report=True)["rows"] == found["rows"]
    base, *trained = found["rows"]
    assert base["kl"]["mean"] == 0 and base["rewards"] is None and "took" not in base
    for row in trained:
        assert row["finished"] == 1 and not row["failed"] and row["kl"]["mean"] > 0
        assert row["rewards"]["items"] == row["held_out"]["items"] == row["win_rate"]["items"] == 3
        assert [point["update"] for point in row["curve"]] == [2, 4] and row["curve"][-1]["kl"] == row["kl"]
        assert [point["kl"]["items"] for point in row["curve"]] == [2, 3]
        assert row["took"]["learning"]["items"] == TINY.updates - METERED and len(row["models"]) >= 2
    assert [row["held_out_ppo"] is None for row in trained] == [False, True]
    assert {name: value["items"] for name, value in found["accuracies"].items()} == {
        "training RM": 4,
        "held-out RM": 4,
    }
    by_key = lines(tmp_path)
    for name in ("rloo", "ppo"):
        objectives = {lr: by_key[f"tuning/{name}/lr={lr:g}/seed=100"]["objective"] for lr in TINY.lrs}
        assert found["chosen"][name]["lr"] == max(objectives, key=objectives.get)
    for line in by_key.values():
        assert line["seconds"] >= 0 and line["cpu_seconds"] >= 0 and line["versions"]["torch"] and line["hardware"]


@pytest.mark.slow
def test_every_entry_of_the_study_trains(tiny):
    found = tiny()
    assert [row["name"] for row in found["rows"]] == ["base", *(entry.name for entry in ENTRIES)]
    assert all(row["finished"] == 1 and not row["failed"] and row["kl"]["mean"] > 0 for row in found["rows"][1:])
    passes = {row["name"]: row["passes"] for row in found["rows"][1:]}
    assert passes == {
        "rloo": 1,
        "una-online": 1,
        "una-centred": 1,
        "una-online.released": 4,
        "ppo": 4,
        "una-centred.replay": 2,
    }
    rates = {row["name"]: row["lr"] for row in found["rows"]}
    assert rates["una-centred"] == rates["rloo"]


def test_a_run_is_the_same_again_and_its_rewards_are_the_reward_models(tiny, real_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("UNA_REF_DATA", str(real_folders[0]))
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path / "cache"))
    run, base = OnlineTraining("rloo", 0, 1e-1), real_folders[1]
    line = run.measured(TINY, base)
    folder = work_folder(TINY, base) / run.key
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert line["weights"] == weights_name(folder) != ""
    stored = json.loads((folder / "samples.json").read_text())["samples"]
    assert {update: len(texts) for update, texts in stored.items()} == {"2": 2, "4": 3}
    rows = part_of("pairs", TINY, loading.load_tokenizer(str(base))).held_out[:3]
    classifier = Classifier(str(TINY.proxy.model.folder(TINY, base)))
    shift = TINY.proxy.source(TINY, base).by
    expected = [reward + shift for reward in classifier(measures.answers(rows, stored["4"]))]
    assert line["points"][-1]["rewards"] == pytest.approx(expected, abs=1e-5)
    mean_kl = sum(line["points"][-1]["kl"]) / 3
    assert line["objective"] == pytest.approx(sum(expected) / 3 - TINY.beta * mean_kl, abs=1e-4)
    assert len(line["train_rewards"]) == 4 and len(line["took"]["wall"]) == 2
    shutil.rmtree(folder)
    again = run.measured(TINY, base)
    assert again["points"] == line["points"] and (folder / "adapter_model.safetensors").read_bytes() == weights


def test_the_training_reward_has_mean_zero_over_the_bases_samples(tiny, real_folders, tmp_path):
    _, base = real_folders
    source = TINY.proxy.source(TINY, base)
    job, part = real_online_runs.base_job(TINY, base)
    _, stored = measures.sampled(job, part.train[:3], max_new=4, seed=0, trained=False)
    assert sum(source(measures.answers(part.train[:3], stored))) == pytest.approx(0, abs=1e-5)
    assert source.by != 0


def test_both_studies_share_the_judge_and_no_pair_of_the_two_reward_models_has_a_prompt_in_common(tiny, real_folders):
    _, base = real_folders
    offline = RealSettings(sizes={**TINY.sizes, "llmbar": Size(0, 4)}, batch=4, lora_r=2)
    assert TINY.judge.folder(TINY, base) == RewardModel(TINY.reward_lr).folder(offline, base)
    assert TINY.proxy.model.folder(TINY, base) != TINY.judge.folder(TINY, base)
    assert RewardModel(TINY.reward_lr, seed=2).folder(TINY, base) != TINY.judge.folder(TINY, base)
    tokenizer = loading.load_tokenizer(str(base))
    prompts = [
        {same_prompt(row) for row in (*part.train, *part.held_out)}
        for part in (part_of(name, TINY, tokenizer) for name in ("pairs", "reward", "proxy"))
    ]
    assert not prompts[0] & prompts[1] and not prompts[1] & prompts[2] and not prompts[0] & prompts[2]


def test_processes_that_ask_for_a_reward_model_at_the_same_time_wait_for_one_of_them(tiny, real_folders):
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: TINY.judge.folder(TINY, real_folders[1]), range(2))
    assert first == second and (first / "model.safetensors").exists()


def test_a_run_that_is_not_finite_is_measured_as_it_stood(tiny, real_folders, monkeypatch):
    from una_ref.training.trainer import NonFinite, Trainer

    step = Trainer.step

    def broken(self, number, examples, **options):
        if number == 2:
            raise NonFinite("a loss is nan", examples)
        return step(self, number, examples, **options)

    monkeypatch.setattr(Trainer, "step", broken)
    line = OnlineTraining("rloo", 0, 1e-2).measured(replace(TINY, curve_prompts=3), real_folders[1])
    assert line["failed"] == "update 3: a loss is nan"
    assert [point["update"] for point in line["points"]] == [2, 3]
    assert line["points"][0]["kl"] == line["points"][1]["kl"]  # the step that failed has changed nothing
    assert negative_objective(line) == float("inf")


def test_quick_is_one_seed_of_the_same():
    full = RealOnlineSettings()
    assert full.quick.seeds == (0,)
    assert {name: asdict(full)[name] for name in HEADER} == {name: asdict(full.quick)[name] for name in HEADER}


def test_an_axis_is_refused_since_there_is_one(capsys, tmp_path):
    options = ["--online", "--model", "x", "--axis", "methods", "--output", str(tmp_path / "study")]
    assert main(["compare", *options]) == 2
    assert "axis methods: expected a study with axes" in capsys.readouterr().err and not (tmp_path / "study").exists()


def test_a_run_of_another_header_is_refused(tiny, tmp_path):
    stopped, _ = counting(stop_after=1)
    with pytest.raises(RuntimeError):
        tiny(stopped)
    with pytest.raises(InputError, match="expected runs of .* choose another output"):
        tiny(settings=replace(TINY, beta=0.2))


# ---- records


def no_run(run):
    raise AssertionError(f"expected no run to be computed, got {run}")


def test_the_committed_runs_table_and_figure_are_those_of_this_study(records, tmp_path):
    folder, settings = records / "real_online", REAL_ONLINE.settings
    text = (folder / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text)
    header = json.loads(text.splitlines()[0])
    expected = json.loads(json.dumps(asdict(settings)))
    assert header["settings"] == {name: expected[name] for name in HEADER}
    assert header["base"].startswith("SmolLM2-135M-Instruct")
    store = RunStore(tmp_path, header, no_run, compute=False)
    committed = json.loads((folder / "results.json").read_text())
    chosen = choose(store, candidates(settings), REAL_ONLINE.criterion)
    assert chosen == committed["chosen"]
    found = json.loads(json.dumps(results(store, settings, tmp_path, chosen)))
    assert {name: committed[name] for name in found} == found
    assert REAL_ONLINE.table(committed) == (folder / "table.md").read_text()
    assert figure(committed, tmp_path, "again").read_bytes() == (records.parent / "real_online.svg").read_bytes()
    assert summary(committed, tmp_path, "again").read_bytes() == (records.parent / "real_model.svg").read_bytes()
    page = (records.parents[1] / "docs" / "studies.md").read_text("utf-8")
    assert (folder / "table.md").read_text().strip() in page
