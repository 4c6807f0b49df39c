"""Attention piece by piece gives what attention under the whole mask gives, and is used where it pays."""

import pytest
import torch

from una_ref.data.batch import Example, collate
from una_ref.policies import attention
from una_ref.policies.attention import Piece, Piecewise, computed, divided, pieces
from una_ref.policies.layouts import additive_mask, hidden_states

EXAMPLES = [
    Example((3, 4, 5), ((6, 7, 8, 9, 10, 2), (2,), (11, 2))),
    Example((12, 13, 14, 15, 16, 17), ((18, 2), (19, 20, 21))),
    Example((22,), ((2,),)),
    Example((23, 24), ((2,), (25, 26, 27, 28, 29, 30, 31, 32, 33, 2), (34, 2), (35, 36, 2))),
]


def test_pieces_of_the_row_in_the_documentation_of_a_batch():
    until = [9, 9, 9, 9, 6, 6, 9, 9, 9, 14, 14, 14, 14, 14, 15, 16]
    row = pieces(until)  # p, its responses y and z, q with its only response, two pads
    assert row == [Piece(4), Piece(2, (0,)), Piece(3, (0,)), Piece(5), Piece(2, alone=True)]
    assert computed(row) == 4 * 4 + 2 * 6 + 3 * 7 + 5 * 5 + 2


def test_pieces_of_a_prefix_tree():
    until = [7, 4, 3, 4, 7, 6, 7]  # 0 above 1 (above 2, 3) and 4 (above 5, 6)
    assert [piece.seen for piece in pieces(until)] == [(), (0,), (0, 1), (0, 1), (0,), (0, 4), (0, 4)]


@pytest.mark.parametrize("keys", [4, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_result_and_the_gradients_are_those_of_the_whole_mask(keys, dtype):
    batch = collate(EXAMPLES)
    mask = additive_mask(batch, dtype, None)
    rows, length = batch.tokens.shape
    made = torch.Generator().manual_seed(0)
    shapes = [(rows, heads, length, 8) for heads in (4, keys, keys)]
    tensors = [torch.randn(shape, generator=made, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]

    def attended():
        out = torch.nn.functional.scaled_dot_product_attention(*tensors, attn_mask=mask, scale=0.3, enable_gqa=True)
        return out, torch.autograd.grad(out, tensors, weights)

    weights = torch.randn(shapes[0], generator=made, dtype=torch.float64).to(dtype)
    expected, slopes = attended()
    with Piecewise(batch, mask) as mode:
        found, own = attended()
    assert any(piece.alone for row in mode.rows for piece in row) and mode.saved > 0
    close = {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 0.06}
    torch.testing.assert_close(found, expected, **close)
    for slope, other in zip(own, slopes, strict=True):
        torch.testing.assert_close(slope, other, **close)


def test_other_attention_stays_as_it_is():
    batch = collate(EXAMPLES)
    mask = additive_mask(batch, torch.float32, None)
    rows, length = batch.tokens.shape
    q = torch.randn(rows, 2, length, 4, generator=torch.Generator().manual_seed(0))
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def results():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            dropped = sdpa(q, q, q, attn_mask=mask, dropout_p=0.5)
        named = sdpa(query=q, key=q, value=q, attn_mask=mask)
        return [sdpa(q, q, q, is_causal=True), sdpa(q, q, q, attn_mask=torch.zeros_like(mask)), dropped, named]

    expected = results()
    with Piecewise(batch, mask):
        assert all(map(torch.equal, results(), expected))


@pytest.mark.parametrize("family", ["Mistral", "GPT2"])
def test_a_model_gives_the_same_hidden_states_and_gradients(tiny, monkeypatch, family):
    model, batch = tiny(family).double(), collate(EXAMPLES)
    core = getattr(model, model.base_model_prefix)

    def results():
        model.zero_grad()
        hidden = hidden_states(core, batch)
        (hidden * torch.linspace(-1, 2, hidden.numel()).view(hidden.shape)).sum().backward()
        return [hidden.detach(), *(p.grad for p in core.parameters())]

    expected, used = results(), []
    row = Piecewise._row
    monkeypatch.setattr(attention, "WORTH", 0)
    monkeypatch.setattr(Piecewise, "_row", lambda *args, **options: used.append(1) or row(*args, **options))
    found = results()
    assert len(used) == 2 * len(batch.tokens)  # every row of both layers
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_rows_are_divided_where_that_pays(tiny):
    def context(responses, tokens, model=None, **more):
        core = (model or tiny(**more)).model
        batch = collate([Example(tuple(range(64)), ((5,) * tokens,) * responses)]).to(next(core.parameters()).device)
        mask = additive_mask(batch, torch.float32, None)
        return type(divided(core, batch, mask, more.get("sliding_window"))).__name__

    assert context(8, 96) == "Piecewise"
    assert context(1, 700) == "nullcontext"  # one piece, which the mask computes as well
    assert context(8, 8) == "nullcontext"  # short
    assert context(8, 96, sliding_window=100) == "nullcontext"  # positions that a response does not see
    assert context(8, 96, sliding_window=158) == "nullcontext"  # the last position is 64 + 96 − 2
    assert context(8, 96, sliding_window=159) == "Piecewise"
    # Four heads, three pieces, t = tokens − 1: 4·((64 + 2t)² − 64² − 2t·(64 + t)) = 4·(128t + 2t²) > 90,000 from 79 on.
    assert (context(2, 79), context(2, 80)) == ("nullcontext", "Piecewise")
    assert context(8, 96, attn_implementation="eager") == "nullcontext"
    checkpointed = tiny()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    assert context(8, 96, checkpointed) == "nullcontext"  # layers are computed again, after the context
    assert context(8, 96, tiny().to("meta")) == "nullcontext"
