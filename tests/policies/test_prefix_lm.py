"""The prefix MLP and transformer: their exact table, the batch path, its start, its sampler."""

import copy

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.errors import InputError
from una_ref.policies.critics import Critic
from una_ref.policies.exact import next_logps
from una_ref.policies.logprobs import sequence_logprobs
from una_ref.policies.prefix_lm import PrefixLM, PrefixSampler
from una_ref.policies.references import Policy
from una_ref.theory.worlds import SequenceWorld


@pytest.fixture(scope="module")
def world():
    return SequenceWorld.random(3, prompts=3, vocabulary=4, length=4)


@pytest.fixture(params=[0, 2], ids=["mlp", "transformer"])
def layers(request):
    return request.param


@pytest.fixture
def model(world, layers):
    """A policy away from its start."""
    made = PrefixLM(world, hidden=16, layers=layers, dtype=torch.float64)
    torch.nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(1))
    torch.nn.init.normal_(made.head.bias, generator=torch.Generator().manual_seed(2))
    return made


def examples(world):
    """Every sequence after every prompt, three responses to an example."""
    tokens = [tuple(token for token in row if token >= 0) for row in world.sequences.tolist()]
    return [
        Example((x,), tuple(tokens[i : i + 3]), prompt_index=x)
        for x in range(len(world.rewards))
        for i in range(0, len(tokens), 3)
    ]


def test_a_fresh_policy_is_the_reference_policy(world, layers):
    model = PrefixLM(world, hidden=16, layers=layers, dtype=torch.float64)
    torch.testing.assert_close(model.next_logps(), world.ref_next_logps, rtol=0, atol=1e-14)
    policy = Policy(model)
    assert policy.check_start(collate(examples(world), "padded")) == 0


def test_a_policy_in_float32_starts_within_the_limit_of_check_start(world, layers):
    policy = Policy(PrefixLM(world, hidden=16, layers=layers))
    assert policy.check_start(collate(examples(world), "padded")) == 0
    torch.testing.assert_close(policy.model.next_logps().double(), world.ref_next_logps, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_exact_table_agrees_with_the_batch_path(world, model, layout):
    exact = world.sequence_logps(model.next_logps())
    by_batch = sequence_logprobs(model, collate(examples(world), layout))
    torch.testing.assert_close(by_batch, exact.flatten(), rtol=0, atol=1e-12)
    torch.testing.assert_close(exact.exp().sum(1), torch.ones(3, dtype=torch.float64))


def test_the_exact_table_agrees_with_the_prefix_tree_of_transformers(world, model):
    tree = next_logps(model, [(x,) for x in range(3)], world.tree, range(4))
    torch.testing.assert_close(tree, model.next_logps().detach(), rtol=0, atol=1e-12)


def test_a_prediction_sees_only_the_prompt_and_earlier_tokens(model):
    first = model.trunk(input_ids=torch.tensor([[1, 2, 3, 1]]))[0]
    other = model.trunk(input_ids=torch.tensor([[1, 2, 3, 2]]))[0]
    torch.testing.assert_close(first[:, :3], other[:, :3], rtol=0, atol=1e-14)
    assert (first[:, 3] - other[:, 3]).abs().max() > 1e-3
    changed = model.trunk(input_ids=torch.tensor([[0, 2, 3, 1]]))[0]
    assert (first != changed).any(-1).all()


def test_the_table_is_differentiable_in_every_weight(world):
    model = PrefixLM(world, hidden=3, dtype=torch.float64)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    weights = [p.detach() for p in model.parameters()]

    def reward(*values):
        table = torch.func.functional_call(
            model, dict(zip(dict(model.named_parameters()), values, strict=True)), (), {}
        )
        return (world.sequence_logps(table).exp() * world.rewards).sum()

    model.forward = model.next_logps
    assert torch.autograd.gradcheck(reward, [w.requires_grad_() for w in weights])


def test_the_number_of_parameters_is_what_the_docstring_says(world):
    x, t, v, h = 3, 4, 4, 16
    model = PrefixLM(world, hidden=h)
    assert sum(p.numel() for p in model.parameters()) == (x + (t - 1) * v) * h + v * (h + 1)


def test_a_copy_has_weights_of_its_own(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weights in model.trunk.parameters():
            weights += 1
        model.head.bias += torch.arange(4)
    assert not torch.equal(twin.next_logps(), model.next_logps())
    assert twin.trunk.tables is model.trunk.tables


def test_a_critic_reads_the_states(world, model):
    batch = collate(examples(world)[:2], "padded")
    values = Critic(model, copy.deepcopy(model.trunk))(batch, torch.zeros(0))
    assert values.shape == batch.target.shape and not values.any()


def test_a_width_of_zero_is_refused(world):
    with pytest.raises(InputError, match="hidden: expected a width of at least 1, got 0"):
        PrefixLM(world, hidden=0)


def test_a_width_that_the_heads_cannot_share_is_refused(world):
    with pytest.raises(InputError, match="hidden: expected a multiple of 8 for a transformer of 4 heads, got 12"):
        PrefixLM(world, hidden=12, layers=1)


def test_a_prompt_and_a_token_of_one_number_have_rows_of_their_own(world):
    model = PrefixLM(world, hidden=8, layers=1)
    model.trunk.states().square().sum().backward()
    used = model.trunk.core.embed_tokens.weight.grad.abs().sum(1) > 0
    assert used.tolist() == [True] * 3 + [False] + [True] * 3  # three prompts; EOS, which nothing follows; tokens


def test_the_start_of_a_transformer_depends_on_its_seed_alone(world):
    before = torch.random.get_rng_state()
    first, again, other = (PrefixLM(world, hidden=8, layers=1, seed=seed).trunk.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


# ---- the sampler


def frequencies(world, samples):
    """(X, S) how often each sequence was sampled."""
    counts = torch.zeros_like(world.rewards)
    for x, line in enumerate(samples):
        for sample in line:
            counts[x, world.index(sample.tokens)] += 1
    return counts / len(samples[0])


def check_within_five_standard_errors(found, exact, count):
    error = (exact * (1 - exact) / count).sqrt()
    assert ((found - exact).abs() < 5 * error + 2 / count).all()


def test_the_sampler_agrees_with_the_exact_table(world, model):
    count = 4_000
    samples = PrefixSampler()(model, [(0,), (1,), (2,)], k=count, max_new=4, seed=0)
    exact = world.sequence_logps(model.next_logps()).detach()
    check_within_five_standard_errors(frequencies(world, samples), exact.exp(), count)
    # Enumeration against Monte Carlo: the mean reward.
    drawn = frequencies(world, samples)
    mean, spread = (drawn * world.rewards).sum(1), (exact.exp() * world.rewards.square()).sum(1).sqrt()
    assert ((mean - (exact.exp() * world.rewards).sum(1)).abs() < 5 * spread / count**0.5).all()
    for x, line in enumerate(samples):
        for sample in line[:50]:
            assert sample.logp == pytest.approx(float(exact[x, world.index(sample.tokens)]), abs=1e-12)
            assert sample.ended == (sample.tokens[-1] == 0)


def test_the_sampler_of_the_mixture_mixes_every_next_token(world, model, layers):
    count, share = 4_000, 0.3
    policy = Policy(PrefixLM(world, hidden=16, layers=layers, dtype=torch.float64))
    policy.model.load_state_dict(model.state_dict())
    samples = PrefixSampler().mixed(policy, [(0,), (1,), (2,)], k=count, max_new=4, seed=0, share=share)
    mixture = torch.lerp(model.next_logps(), world.ref_next_logps, share).log_softmax(-1)
    check_within_five_standard_errors(frequencies(world, samples), world.sequence_logps(mixture).exp().detach(), count)


def test_samples_are_a_function_of_the_seed(model):
    first, again, other = (PrefixSampler()(model, [(1,)], k=50, max_new=4, seed=seed) for seed in (5, 5, 6))
    assert first == again != other
