"""What judges online policies: a proxy and the truth, each exact."""

import pytest
import torch

from una_ref.policies.answers import Answer
from una_ref.studies import proxies
from una_ref.studies.proxies import TRUTH, ProxyWorld, pair_accuracy, win_rates
from una_ref.studies.toysteer_policies import base_in_world

BETA = 0.4


@pytest.fixture(scope="module")
def judge(toysteer_base):
    """World 0, judged by the truth and by a proxy of random numbers."""
    world, next_logps, _ = base_in_world(0, toysteer_base)
    noise = torch.randn(world.rewards.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ProxyWorld(world, next_logps, world.rewards + noise + 3, BETA)


def test_win_rate_by_hand():
    # Rewards 1, 2, 2, 0, sampled with 0.1, 0.2, 0.3, 0.4. The first beats the last (0.4) and ties with itself (0.1/2):
    # 0.45. The second beats two (0.5) and ties with two (0.5/2): 0.75. The last ties with itself: 0.2. In all one half.
    rewards = torch.tensor([1.0, 2.0, 2.0 + 1e-13, 0.0], dtype=torch.float64)
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert win_rates(rewards, p).tolist() == pytest.approx([0.45, 0.75, 0.75, 0.2])
    assert float(p @ win_rates(rewards, p)) == pytest.approx(0.5)


def test_win_rate_is_that_of_all_pairs(judge):
    # Every pair of a response of π and one of the base, for one prompt: 3,906 × 3,906 of them.
    r, p = judge.truth.rewards[3], judge.truth.ref_logps[3].exp()
    wins = (r[:, None] > r + 1e-9).double() + 0.5 * ((r[:, None] - r).abs() <= 1e-9).double()
    assert torch.allclose(judge.win_rates[3], wins @ p, atol=1e-12)


def test_both_regrets_and_the_kl_are_sums_over_the_list(judge):
    ref = judge.truth.ref_logps
    logps = (ref + 0.3 * torch.randn(ref.shape, generator=torch.Generator().manual_seed(2))).log_softmax(1)
    measured = judge.measure(logps)
    for name, rewards in (("regret", judge.proxy.rewards), ("true_regret", judge.world.rewards)):
        best = BETA * (ref + rewards / BETA).logsumexp(1)
        worth = (logps.exp() * (rewards - BETA * (logps - ref))).sum(1)
        assert measured[name] == pytest.approx(float((best - worth).mean()), abs=1e-9)
    assert measured["kl"] == pytest.approx(float((logps.exp() * (logps - ref)).sum(1).mean())) and measured["kl"] > 0.01


def test_base_wins_half_and_each_optimum_is_best_by_its_own_reward(judge):
    base, best, good = (judge.measure(x) for x in (judge.truth.ref_logps, judge.proxy.optimum, judge.truth.optimum))
    assert base["win_rate"] == pytest.approx(0.5) and abs(base["kl"]) < 1e-12
    assert abs(base["proxy_reward"]) < 1e-6  # the proxy, which is above 3 on average, is shifted to 0
    assert abs(best["regret"]) < 1e-9 < best["true_regret"]
    assert abs(good["true_regret"]) < 1e-9 < good["regret"]
    assert good["win_rate"] > 0.6 and good["kl"] > 0.1


def test_pair_accuracy_is_agreement_with_the_labels(toysteer_base):
    world, _, ref = base_in_world(0, toysteer_base)
    right = pair_accuracy(world.rewards, world, ref, 512, seed=3)
    assert 0.6 < right < 0.95  # Bradley–Terry's labels are not always on the better one's side
    assert pair_accuracy(-world.rewards, world, ref, 512, seed=3) == pytest.approx(1 - right)
    assert pair_accuracy(torch.zeros_like(world.rewards), world, ref, 512, seed=3) == 0.5


def test_a_reward_model_s_table_is_what_it_says_of_the_text(toysteer_base, tmp_path, monkeypatch):
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path))
    proxies.scores.cache_clear()
    source, table = proxies.source(0, "16", toysteer_base), proxies.scores(0, 16, toysteer_base)
    world = base_in_world(0, toysteer_base).world
    some = range(5, 3906, 301)
    answers = [Answer(world.prompts[2], world.text(y), world.responses[y][1]) for y in some]
    assert source(answers) == pytest.approx(table[2, list(some)].tolist(), abs=1e-4)
    assert table.std() > 1e-3
    proxies.scores.cache_clear()


def test_a_reward_model_learns_its_pairs_once(toysteer_base, tmp_path, monkeypatch):
    monkeypatch.setenv("UNA_REF_CACHE", str(tmp_path))
    folder = proxies.reward_model(0, 64, toysteer_base)
    assert folder.parent == tmp_path and [path.name for path in tmp_path.iterdir()] == [folder.name]
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert proxies.reward_model(0, 64, toysteer_base) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    proxies.scores.cache_clear()
    world, _, ref = base_in_world(0, toysteer_base)
    assert pair_accuracy(proxies.scores(0, 64, toysteer_base), world, ref, 64, seed=0) > 0.7
    proxies.scores.cache_clear()


def test_the_truth_is_a_reward_of_its_own(toysteer_base):
    judge = proxies.proxy_world(0, TRUTH, BETA, toysteer_base)
    assert judge.measure(judge.truth.optimum)["regret"] == pytest.approx(0, abs=1e-9)
