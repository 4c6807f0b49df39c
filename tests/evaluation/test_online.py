"""The online comparison: what judges it, what a number added to all scores does, and that a study goes on."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from una_ref import cli
from una_ref.evaluation import online as o
from una_ref.evaluation import online_report as report
from una_ref.evaluation import proxies
from una_ref.evaluation.memory import Meter
from una_ref.evaluation.report import over
from una_ref.evaluation.runs import Runs
from una_ref.policies.answers import Answer

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "figures" / "runs" / "compare_online" / "results.json"
TINY = o.Settings(
    steps=2,
    draws=4,
    every=1,
    rollouts=3,
    timed=2,
    test=64,
    reward=o.TRUTH,
    rewards=("16", o.TRUTH),
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


@pytest.fixture(scope="module")
def judge():
    """World 0, judged by the truth and by a proxy of random numbers."""
    world, ref_next = proxies.base(0)
    noise = torch.randn(world.rewards.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return proxies.Judge(world, ref_next, world.rewards + noise + 3, TINY.beta)


# ---- what judges


def test_the_win_rate_by_hand():
    # Rewards 1, 2, 2, 0, drawn with .1, .2, .3, .4. The first beats the last (.4) and ties with itself (.1/2): .45. The
    # second beats two (.5) and ties with two (.5/2): .75. The last ties with itself: .2. All in all one half.
    rewards = torch.tensor([1.0, 2.0, 2.0 + 1e-13, 0.0], dtype=torch.float64)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert proxies.beats(rewards, p).tolist() == pytest.approx([0.45, 0.75, 0.75, 0.2])
    assert float(p @ proxies.beats(rewards, p)) == pytest.approx(0.5)


def test_the_win_rate_is_that_of_pairs(judge):
    # Every pair of a response of π and one of the base, for one prompt: 3,906 × 3,906 of them.
    r, p = judge.truth.rewards[3], judge.truth.ref_logps[3].exp()
    wins = (r[:, None] > r + 1e-9).double() + 0.5 * ((r[:, None] - r).abs() <= 1e-9).double()
    assert torch.allclose(judge.beats[3], wins @ p, atol=1e-12)


def test_both_regrets_by_summing_over_the_list(judge):
    ref = judge.truth.ref_logps
    logps = (ref + 0.3 * torch.randn(ref.shape, generator=torch.Generator().manual_seed(2))).log_softmax(1)
    measured = judge.measure(logps)
    for name, rewards in (("regret", judge.proxy.rewards), ("true_regret", judge.world.rewards)):
        best = TINY.beta * (ref + rewards / TINY.beta).logsumexp(1)
        worth = (logps.exp() * (rewards - TINY.beta * (logps - ref))).sum(1)
        assert measured[name] == pytest.approx(float((best - worth).mean()), abs=1e-9)
    assert measured["kl"] == pytest.approx(float((logps.exp() * (logps - ref)).sum(1).mean()))


def test_the_base_wins_half_and_each_optimum_is_best_by_its_own_reward(judge):
    base, best, good = (judge.measure(x) for x in (judge.truth.ref_logps, judge.proxy.optimum, judge.truth.optimum))
    assert base["win_rate"] == pytest.approx(0.5) and abs(base["kl"]) < 1e-12
    assert abs(base["proxy_reward"]) < 1e-6  # the proxy, 3 and more on the whole, is shifted to 0
    assert abs(best["regret"]) < 1e-9 < best["true_regret"]
    assert abs(good["true_regret"]) < 1e-9 < good["regret"]
    assert good["win_rate"] > 0.6


@pytest.mark.slow
def test_a_reward_models_table_is_what_it_says_of_the_text():
    source, table = proxies.source(0, "16"), proxies.scores(0, 16)
    world, _ = proxies.base(0)
    some = range(5, 3906, 301)
    answers = [Answer(world.prompts[2], world.text(y), world.responses[y][1]) for y in some]
    assert source(answers) == pytest.approx(table[2, list(some)].tolist(), abs=1e-4)
    assert table.std() > 1e-3


def test_accuracy_is_that_of_the_verdicts():
    world, _ = proxies.base(0)
    ref = proxies.judge(0, o.TRUTH, 0.4).truth.ref_logps
    right = proxies.accuracy(world.rewards, world, ref, 512, seed=3)
    assert 0.6 < right < 0.95  # Bradley–Terry's coin is not always on the better one's side
    assert proxies.accuracy(-world.rewards, world, ref, 512, seed=3) == pytest.approx(1 - right)
    assert proxies.accuracy(torch.zeros_like(world.rewards), world, ref, 512, seed=3) == 0.5


# ---- runs


def gradient(entry, offset):
    """The policy's gradient of a first step at the base policy."""
    it = o.ready(o.Noise(entry, o.TRUTH, offset, 0), TINY)
    it.trainer.optimizer.zero_grad()
    it.trainer.accumulate(it.answered(it.examples, 0, record=False)[0], record=False)
    return o._gradient(it)


def test_a_number_added_to_all_scores_is_seen_by_eq_10_alone():
    far = {}
    for entry in ("una-online", "una-centred", "rloo", "iterative-dpo"):
        plain, moved = gradient(entry, 0.0), gradient(entry, 4.0)
        far[entry] = float((plain - moved).norm() / plain.norm())
    assert far["una-online"] > 1
    assert max(far["una-centred"], far["rloo"]) < 1e-4 and far["iterative-dpo"] == 0


def test_so_are_the_policies_that_come_of_it():
    def regret(entry, offset):
        return o.one(o.Training(entry, o.TRUTH, offset, 1e-2, 0), TINY)["regret"]

    assert regret("una-centred", 4.0) == pytest.approx(regret("una-centred", 0.0), abs=1e-4)
    assert abs(regret("una-online", 4.0) - regret("una-online", 0.0)) > 1e-3


def test_the_objective_whose_gradient_is_the_signal_is_the_one_that_judges():
    settings = dataclasses.replace(TINY, rollouts=12, draws=8)
    run = o.Training("rloo", o.TRUTH, 0.0, 1e-2, 0)
    by, it = proxies.judge(0, o.TRUTH, TINY.beta), o.ready(run, settings)
    it.step(0, record=False)
    measured = by.measure(o.policy_logps(it, by))
    assert measured["kl"] > 1e-3
    worth = measured["proxy_reward"] - TINY.beta * measured["kl"]
    assert float(o.objective(it, by).detach()) == pytest.approx(worth, abs=1e-5)
    # Unbiased: the mean of rollouts' gradients points along that of the objective.
    found = o.noise(o.Noise("rloo", o.TRUTH, 0.0, 0), dataclasses.replace(settings, rollouts=48))
    assert abs(found["signal"] - found["expected"]) < 4 * found["signal_error"] < 0.5 * found["expected"]
    assert 0 < found["noise"] < 10


def test_a_run_learns_and_repeats_itself():
    settings = dataclasses.replace(TINY, steps=8, draws=8, every=4)
    run = o.Training("una-centred", o.TRUTH, 0.0, 1e-2, 1)
    first, again = o.one(run, settings), o.one(run, settings)
    assert [point["step"] for point in first["curve"]] == [0, 4, 8]
    assert first["regret"] < 0.7 * first["base_regret"] and first["failed"] == ""
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}


def test_a_run_that_breaks_is_measured_where_it_stood(monkeypatch):
    from una_ref.training.fit import Job
    from una_ref.training.loop import NonFinite

    def breaks(self, step, *, record):
        raise NonFinite("the gradient's norm is nan", [])

    monkeypatch.setattr(Job, "step", breaks)
    found = o.one(o.Training("rloo", o.TRUTH, 0.0, 1e-2, 0), TINY)
    assert found["failed"] == "step 1: the gradient's norm is nan"
    assert found["regret"] == found["base_regret"] and len(found["curve"]) == 2


@pytest.mark.slow
def test_every_entry_asks_the_reward_as_often():
    for entry in o.ENTRIES:
        it, asked = o.ready(o.Training(entry.name, o.TRUTH, 0.0, 1e-3, 0), TINY), []

        def counted(answers, reward=it.rollouts.reward, asked=asked):
            asked.extend(answers)
            return reward(answers)

        it.rollouts = dataclasses.replace(it.rollouts, reward=counted)
        for step in range(TINY.steps):
            it.step(step, record=False)
        assert len(asked) == TINY.steps * TINY.batch * TINY.draws, entry.name


def test_the_models_that_are_held():
    ppo, rloo = (o.models(o.ready(o.Cost(e, o.TRUTH, 1e-3, 0), TINY)) for e in ("ppo", "rloo"))
    assert rloo == {"policy": ppo["policy"], "reference": 0}  # the policy without its adapter, nothing more
    assert 0.9 * ppo["policy"] < ppo["critic"] < ppo["policy"]


def test_a_phase_within_another_has_its_own_peak():
    meter = Meter()
    with meter.phase("learning"):
        few = bytearray(8 << 20)
        with meter.phase("generation"):
            many = bytearray(96 << 20)
            del many
        assert len(few) == 8 << 20
    if meter.peaks["learning"] is None:
        pytest.skip("this system does not say what a phase took")
    assert meter.peaks["generation"] > 100 > 48 > meter.peaks["learning"] > 7


def test_a_job_is_measured_by_its_phases():
    it, meter = o.ready(o.Cost("rloo", o.TRUTH, 1e-3, 0), TINY), Meter()
    meter.attach(it)
    with meter.phase("learning"):
        it.step(0, record=False)
    assert set(meter.peaks) == set(it.seconds) == set(report.PHASES)


def test_a_reward_may_be_given_for_what_the_config_names():
    it = o.ready(o.Training("rloo", o.TRUTH, 2.5, 1e-3, 0), TINY)
    answer = Answer(it.examples[0].text, "a", True)
    truth = proxies.source(0, o.TRUTH)([answer])[0]
    assert it.rollouts.reward([answer])[0] == pytest.approx(truth + 2.5 + proxies.judge(0, o.TRUTH, TINY.beta).shift)


# ---- the study


@pytest.mark.slow
def test_a_study_goes_on_where_it_was(tmp_path, monkeypatch):
    results = o.compare(tmp_path, settings=TINY, workers=2)
    assert tuple(results) == ("methods", "offset", "proxy")
    for axis, result in results.items():
        assert (tmp_path / f"{axis}.svg").exists()
        assert result["command"] == f"una-ref compare --online --axis {axis} --output {tmp_path}"
    assert json.loads((tmp_path / "results.json").read_text()) == results
    table = (tmp_path / "table.md").read_text()
    # The study is killed while it writes its last line; that run is done again, and no other.
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    done, was = [], Runs.of

    def counted(self, runs, what, **options):
        done.extend(r.key for r in runs if r.key not in self.done)
        return was(self, runs, what, **options)

    monkeypatch.setattr(Runs, "of", counted)
    # One axis alone; what is known of the others stays.
    again = o.compare(tmp_path, axes=("proxy",), settings=TINY, workers=2)
    assert done == [json.loads(lines[-1])["key"]] and tuple(again) == tuple(results)
    assert (tmp_path / "table.md").read_text() == table
    with pytest.raises(o.InputError, match="choose another output"):
        o.compare(tmp_path, settings=dataclasses.replace(TINY, steps=3))


def test_quick_is_less_of_the_same():
    full = o.Settings()
    quick = full.quick
    for name in o.FREE:
        own, whole = getattr(quick, name), getattr(full, name)
        assert own == whole or set(own) <= set(whole), name
    assert all(getattr(quick, name) <= getattr(full, name) for name in o.RUN if name != "every")
    assert (quick.beta, quick.batch, quick.draws) == (full.beta, full.batch, full.draws)
    assert quick.steps in range(0, quick.steps + 1, quick.every)
    chosen = o.committed()
    needed = {o.named(*at) for axis in o.AXES for at in o._tuned(axis, quick)}
    assert needed <= set(chosen) and {x["lr"] for x in chosen.values()} <= set(full.lrs)


def test_what_diverged_is_counted():
    runs = [o.Training("rloo", o.TRUTH, 0.0, 1e-2, seed) for seed in range(3)]
    ended = [(0.1, ""), (0.5, ""), (0.1, "step 3: a loss is nan")]
    measured = [dict.fromkeys(report.MEASURES, regret) | {"failed": why} for regret, why in ended]
    done = {run.key: row for run, row in zip(runs, measured, strict=True)}
    base = [dict.fromkeys(report.MEASURES, 0.3)] * 3
    row = o._row(SimpleNamespace(done=done), "rloo", runs, base)
    assert row["diverged"] == 2 and row["regret_against_base"]["values"] == pytest.approx([-0.2, 0.2, -0.2])


def test_a_curve_goes_on_level_where_its_run_broke():
    curve = [{"step": 0, "kl": 0.0}, {"step": 3, "kl": 1.0}]
    assert [o._at(curve, step)["kl"] for step in (0, 2, 3, 9)] == [0.0, 0.0, 1.0, 1.0]


def test_the_shipped_settings_are_the_committed_study_s():
    results = json.loads(COMMITTED.read_text())
    assert o.committed() == {name: at for result in results.values() for name, at in result["chosen"].items()}
    assert report.table(results) == COMMITTED.with_name("table.md").read_text()
    for result in results.values():
        assert result["settings"] == json.loads(json.dumps(dataclasses.asdict(o.Settings())))


# ---- the report


def results():
    """Results of all three axes, of made-up numbers."""
    s = json.loads(json.dumps(dataclasses.asdict(o.Settings())))

    def row(name, at, **more):
        measures = {m: over([at, at + 0.1, at + 0.2]) for m in report.MEASURES}
        return (
            {"name": name, "title": f"the {name}", "lr": 1e-2, "diverged": 0, "noise": over([at, 2 * at])}
            | measures
            | more
        )

    def point(x):
        return {"kl": over([x, x]), "true_gain": over([x, 2 * x]), "proxy_gain": over([2 * x, 3 * x])}

    cost = {
        "seconds": {p: over([0.1, 0.2]) for p in report.PHASES},
        "memory": {p: over([5.0, 6.0]) for p in report.PHASES},
        "models": {"policy": 100, "reference": 0, "critic": 90},
        "updates": 4,
    }
    base = {"name": "base", "title": "base"} | {m: over([0.3, 0.4]) for m in report.MEASURES}
    entries = [row(e.name, 0.05 * (i + 1), **cost) for i, e in enumerate(o.ENTRIES)]
    offsets = [
        row(e, 0.1, offset=by, retuned=again)
        for e, again in ((e, a) for e in s["offset_entries"] for a in (False, True))
        for by in s["offsets"]
        if not again or e in s["retuned"]
    ]
    curve = [{"step": step} | point(step / 100) for step in (0, 8, 16)]
    rewards = [
        {"reward": r, "train_accuracy": over([0.9]), "test_accuracy": over([0.7]), "frontier": [point(0.1), point(0.3)]}
        | {"optimum": {m: over([0.2]) for m in report.MEASURES} | point(0.2)}
        for r in s["rewards"]
    ]
    return {
        "methods": {"settings": s, "rows": [base, *entries]},
        "offset": {"settings": s, "base": base, "rows": offsets},
        "proxy": {
            "settings": s,
            "rows": [row(e, 0.1, reward=r, curve=curve) for r in s["rewards"] for e in s["proxy_entries"]],
            "rewards": rewards,
        },
    }


def test_the_tables_by_regret_and_by_time():
    text = report.table(results())
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| the "))
    assert lines[first].startswith("| the ppo | 0.150 ± 0.248 |") and lines[first + 1].startswith("| the rloo | 0.200")
    assert "| 2: policy = reference, critic | 190 | 4 | 150 ± 635 | 150 ± 635 | 150 ± 635 | 450 | 5.5 ± 6.4 |" in text
    assert "2,048 reward calls for each method; a reward model of 1,024 pairs" in text
    assert "| regret (proxy) at offset | -4 | -2 | 0 | +2 | +4 | diverged |" in text
    assert "the una-online, lr chosen at each offset |" in text
    assert "| the truth | 0.900 | 0.700 | π̂\\*, its optimum |" in text
    assert all(len(row.split("|")) == len(head.split("|")) for head, row in pairs_of_rows(lines))


def pairs_of_rows(lines):
    """Neighbouring lines of a table."""
    return [(a, b) for a, b in zip(lines, lines[1:], strict=False) if a.startswith("|") and b.startswith("|")]


@pytest.mark.parametrize("axis", ["methods", "offset", "proxy"])
def test_the_figures_are_the_same_bytes_for_the_same_numbers(axis, tmp_path):
    first, second = (report.draw(axis, results()[axis], tmp_path, name).read_bytes() for name in ("a", "b"))
    assert first == second and first.count(b"<path") > 50
    assert report.draw(axis, results()[axis], tmp_path).name == f"{axis}.svg"


def test_a_noise_without_end_is_drawn_and_said(tmp_path):
    made = results()["offset"]
    made["rows"][0]["noise"] = over([math.inf, 1.0])
    assert report.draw("offset", made, tmp_path).exists()
    assert "| inf |" in report.table({"offset": made})


def test_an_axis_belongs_to_the_online_study(capsys):
    assert cli.main(["compare", "--axis", "offset"]) == 2
    assert "expected with --online" in capsys.readouterr().err
