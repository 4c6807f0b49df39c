# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What does one row of feedback do to a policy, and where do all the steps lead?
#
# A row of feedback is a prompt, some responses and their ratings or labels. This notebook follows one row until it
# has moved a policy by one optimizer step. It prints every tensor on the way. Then it takes all the steps and
# compares their end with the exact answer. It is the map of the project: every method and every model makes these
# seven moves.
#
# | move | from | to | in the library |
# | --- | --- | --- | --- |
# | 1 | text and ratings | a row | `una_ref.data.rows.Row` |
# | 2 | a row | token ids | `una_ref.data.encoder.Encoder` |
# | 3 | token ids | a batch | `una_ref.data.batch.collate` |
# | 4 | a batch | log-probabilities | `una_ref.policies.logprobs.sequence_logprobs` |
# | 5 | log-probabilities | implicit rewards | `una_ref.policies.references.Policy` |
# | 6 | rewards and feedback | one loss per example | `una_ref.METHODS[name].loss` |
# | 7 | losses | one optimizer step | `una_ref.training.trainer.Trainer` |
#
# Two policies make these moves side by side, with the same functions. One is a **tiny LM**: a Mistral of two layers
# with a LoRA adapter. The other is a **table** of logits, with one row per prompt and one column per response.
#
# **Claim.** Let $r_\theta = \beta \log \frac{\pi}{\pi_\text{ref}}$ be the implicit reward (UNA Eq. 6) and $s$ the
# score of a response. Gradient steps on the squared residual $r_\theta + V(x) - s$ end at the RLHF optimum (UNA Eq. 3
# and 4). It maximises expected score minus $\beta$ times the KL to $\pi_\text{ref}$. UNA Eq. 10 omits the
# per-prompt number $V(x)$. Without it the steps end at another policy.
#
# **Needs.** PyTorch, and the idea of RLHF: raise a reward, stay close to a reference policy. In Colab or
# Kaggle: `%pip install una_ref` first.
#
# **Time.** About 30 minutes to read, without the exercises. Next: [notebook 01](01_log_sum_inequality.ipynb).

# %%
from dataclasses import replace

import torch
from scipy.special import lambertw

from una_ref import METHODS, figures
from una_ref.data import toysteer
from una_ref.data.batch import Example, collate
from una_ref.data.conversions import scores_to_labels, scores_to_pairs
from una_ref.data.encoder import Encoder
from una_ref.data.rows import Row
from una_ref.notebook import check, scale
from una_ref.policies import loading
from una_ref.policies.exact import next_logps
from una_ref.policies.logprobs import sequence_logprobs, token_logprobs
from una_ref.policies.references import Policy
from una_ref.theory.fixed_points import fixed_point
from una_ref.theory.worlds import PrefixTree, SequenceWorld, TableWorld
from una_ref.training.batches import order
from una_ref.training.config import Config
from una_ref.training.toysteer_base import toysteer_base
from una_ref.training.trainer import Trainer

torch.set_num_threads(1)
torch.set_printoptions(precision=4, sci_mode=False, linewidth=110)
plt = figures.pyplot()

BETA = 0.3  # one β for everything below, in units of the score
PROMPTS = 4
BASE = str(toysteer_base())  # ships with the package

# %% [markdown]
# ## The world
#
# ToySteer is a data set with known correct answers. A prompt asks for a small task on letters. A response has at most
# five tokens, so all 3,906 responses to a prompt can be listed. A program rates each response from 0 to 4 in the five
# columns of HelpSteer2. The base model is a tiny Mistral, trained by imitation on demonstrations that contain
# mistakes. Its weights ship with the package. It is the reference policy $\pi_\text{ref}$: often right, and not
# always.

# %%
world = toysteer.ToySteer(seed=0, size=PROMPTS)
base, tokenizer = loading.load(BASE)
tree = PrefixTree.of(vocabulary=len(toysteer.VOCABULARY), length=toysteer.LENGTH)
prompt_ids = toysteer.encoded_prompts(world, tokenizer)


def all_logps(model):
    """(prompts, 3906) log π of every response, exact."""
    return tree.sequence_logps(next_logps(model, prompt_ids, tree, toysteer.VOCABULARY))


ref_next = next_logps(base, prompt_ids, tree, toysteer.VOCABULARY)
ref_logps = tree.sequence_logps(ref_next)
likeliest = ref_logps.topk(6).indices

for x, prompt in enumerate(world.prompts):
    print(f"{prompt!r}: the six likeliest responses under π_ref")
    for y in likeliest[x].tolist():
        print(f"    {world.text(y):<10} π_ref {ref_logps[x, y].exp():.3f}   score {world.scores[x, y]:.3f}")

# %% [markdown]
# ## 1. A row
#
# Our row is the first prompt with two responses: its fifth likeliest and its likeliest. HelpSteer2 stores them as two
# records:

# %%
drawn = torch.tensor([[0, likeliest[0, 4], likeliest[0, 0]]])  # prompt, response, response
for record in world.helpsteer(drawn, seed=0):
    print(record)
[row] = world.rated(drawn, seed=0)
print(row)

# %% [markdown]
# The score is a weighted sum of three ratings (UNA Sec. 4.1). It is divided by its largest possible value, so that it
# lies in $[0, 1]$:
#
# $$s = \frac{0.65 \cdot \text{helpfulness} + 0.8 \cdot \text{correctness} + 0.45 \cdot \text{coherence}}{7.6}$$

# %% tags=["check"]
by_hand = [
    (0.65 * record["helpfulness"] + 0.8 * record["correctness"] + 0.45 * record["coherence"]) / 7.6
    for record in world.helpsteer(drawn, seed=0)
]
check.close("the row's scores are the weighted ratings", row.scores, by_hand)

# %% [markdown]
# Methods differ in what they read from a row. A pair keeps the order of two scores. A binary label (thumbs up or
# down) keeps one bit for each response. Each conversion reports what it did.

# %%
[as_pair], report = scores_to_pairs([row])
print("pairs, (chosen, rejected):", as_pair.pairs, "    ", report)
[as_labels], report = scores_to_labels([row])
print("labels, 1 is good:        ", as_labels.labels, "   ", report)

# %% [markdown]
# ## 2. Token ids
#
# Prompt and response are tokenized separately, so no token spans the boundary between them. BOS `<s>` stands once, at
# the start of the prompt. EOS `</s>` stands once, at the end of each response. Stopping is a decision of the policy
# and has a probability like any other token. (A truncated response has no EOS.)

# %%
encoder = Encoder(tokenizer, max_response=toysteer.LENGTH)
lm_example = encoder(row)
print("prompt    ", lm_example.prompt, tokenizer.decode(lm_example.prompt))
for ids, score in zip(lm_example.responses, lm_example.scores, strict=True):
    print("response  ", ids, tokenizer.decode(ids), f"  score {score:.4f}")

# %% tags=["check"]
bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
check.true("BOS once, first", lm_example.prompt.count(bos) == 1 and lm_example.prompt[0] == bos)
check.true("EOS once, last", all(ids.count(eos) == 1 and ids[-1] == eos for ids in lm_example.responses))
decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (lm_example.prompt, *lm_example.responses)]
check.true("decoded ids are the row's text", decoded == [row.prompt, *row.responses], str(decoded))

# %% [markdown]
# **The same row in the table.** The table has the six likeliest responses of each prompt and no others. Its reference
# probabilities are those of the LM among the six, rounded to hundredths. The scores are the same. A prompt is one
# token: the number of its row. A response is one token: the number of its column.

# %%
hundredths = (100 * ref_logps.gather(1, likeliest).softmax(-1)).round().clamp(min=1)
hundredths[:, 0] += 100 - hundredths.sum(1)
table_world = TableWorld((hundredths / 100).log(), world.scores.gather(1, likeliest), BETA)
table_example = Example(prompt=(0,), responses=((4,), (0,)), scores=row.scores)

print("π_ref, prompt 0 ", table_world.ref_logps[0].exp())
print("scores, prompt 0", table_world.rewards[0])
print(table_example)

# %% [markdown]
# ## 3. A batch
#
# In a batch a prompt stands once and its responses are packed behind it. Each token has three numbers: its id, its
# position, and `until`. The positions of each response continue from the end of the prompt. `until` defines the
# attention mask:
#
# $$i \text{ sees } j \iff j \le i < \text{until}[j].$$
#
# A prompt token is visible until the last response ends. A response's token is visible until that response ends.
#
# The batch scores a list of (predictor, target). The log-probability of a token is read at the token before it. For a
# response's first token that is the end of the prompt. A response's last token predicts nothing and is left out.

# %%
lm_batch, table_batch = collate([lm_example]), collate([table_example])


def show(batch, word):
    tokens, positions, until = (t[0].tolist() for t in (batch.tokens, batch.positions, batch.until))
    print("index  token  id  position  until")
    for i, (token, position, end) in enumerate(zip(tokens, positions, until, strict=True)):
        print(f"{i:5}  {word(token):<5} {token:3} {position:9} {end:6}")
    print("\nresponse  predictor  target")
    for response, predictor, target in zip(batch.response, batch.predictor, batch.target, strict=True):
        at = f"{word(tokens[predictor])} ({predictor})"
        print(f"{response:8}  {at:<9}  {word(int(target), response=True)}")


print("THE LM'S BATCH\n")
show(lm_batch, lambda i, response=False: tokenizer.decode([i]))
print("\nTHE TABLE'S BATCH\n")
show(table_batch, lambda i, response=False: f"y{i}" if response else f"x{i}")

# %% [markdown]
# The attention mask, computed from `until`. Each row is a token. Its marks are the tokens that it sees:

# %%
seen = lm_batch.visible()[0]
words = [tokenizer.decode([i]) for i in lm_batch.tokens[0].tolist()]
part = torch.zeros(len(words), dtype=torch.int64)  # 0 the prompt, then each response
part[len(lm_example.prompt) :] = 1
part[len(lm_example.prompt) + len(lm_example.responses[0]) - 1 :] = 2
colours = [figures.PALETTE[name] for name in ("grey", "vermilion", "blue")]

fig, ax = plt.subplots(figsize=(3.6, 3.4))
for i, j in seen.nonzero().tolist():
    ax.plot(j, i, "s", color=colours[part[j]], markersize=11)
ax.set_xticks(range(len(words)), words, rotation=90)
ax.set_yticks(range(len(words)), words)
ax.set_xlim(-0.6, len(words) - 0.4)
ax.set_ylim(len(words) - 0.4, -0.6)
ax.xaxis.tick_top()
ax.set_ylabel("this token")
ax.set_title("sees these tokens", loc="center")
ax.grid(False)
for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
    for text, of in zip(labels, part.tolist(), strict=True):
        text.set_color(colours[of])
plt.show()

# %% [markdown]
# The second response (blue) does not see the first (orange). Each is scored as if it stood alone behind the prompt.
# So the padded layout, with one response per row, must give the same log-probabilities. Under an ordinary causal mask
# the second response would attend to the first, and its log-probability would change.

# %% tags=["check"]
with torch.no_grad():
    packed = sequence_logprobs(base, lm_batch)
    padded = sequence_logprobs(base, collate([lm_example], "padded"))
    causal = replace(lm_batch, until=torch.full_like(lm_batch.until, len(words)))
    leaking = sequence_logprobs(base, causal)
check.close("packed = padded, log π in float32", packed, padded, tol=1e-4)
check.close("causal mask: the first response is unchanged", leaking[0], packed[0], tol=1e-4)
check.differs("causal mask: the second response changes", leaking[1], packed[1], by=0.01)

# %% [markdown]
# ## 4. Log-probabilities
#
# The probability of a response is the product of its tokens' probabilities, EOS included:
#
# $$\log \pi(y \mid x) = \sum_t \log \pi(y_t \mid x, y_{<t})$$
#
# Here it is written out for one response at a time, with the logits of the whole vocabulary at every position.
# Log-probabilities are in nats (natural logarithm):


# %%
def log_prob(model, prompt, response):
    """log π(y|x), the plain way."""
    ids = torch.tensor([[*prompt, *response]])
    logits = model(ids).logits[0]
    logits[:, model.generation_config.suppress_tokens] = -torch.inf  # BOS, task words: never in a response
    logps = logits.log_softmax(dim=-1)
    before = range(len(prompt) - 1, len(prompt) + len(response) - 1)
    return logps[before, response].sum()


with torch.no_grad():
    plain = torch.stack([log_prob(base, lm_example.prompt, y) for y in lm_example.responses])
    each = token_logprobs(base, lm_batch)
for b, response in enumerate(row.responses):
    mine = lm_batch.response == b
    terms = [
        f"{tokenizer.decode([t])} {p:.4f}"
        for t, p in zip(lm_batch.target[mine].tolist(), each[mine].tolist(), strict=True)
    ]
    print(f"{response!r}: {' + '.join(terms)} = {plain[b]:.4f} nats, probability {plain[b].exp():.4f}")

# %% [markdown]
# The library's `sequence_logprobs` computes the same from the packed batch. It projects only the predicting positions
# onto the vocabulary, in chunks. So a large model's logits are never all in memory at once. A `TableLM` goes through
# the same function: its hidden state is its row of logits.

# %% tags=["check"]
table_model = loading.TableLM(table_world.ref_logps)
with torch.no_grad():
    check.close("LM: sequence_logprobs = the plain way", sequence_logprobs(base, lm_batch), plain, tol=1e-4)
    check.close(
        "table: sequence_logprobs = its entries",
        sequence_logprobs(table_model, table_batch),
        table_world.ref_logps[0, [4, 0]],
    )

# %% [markdown]
# ## 5. The implicit reward
#
# The implicit reward of a response says how far the policy has moved from its reference there (UNA Eq. 6):
#
# $$r_\theta(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_\text{ref}(y \mid x)}$$
#
# The LM is trained through a LoRA adapter. Its reference is the same model with the adapter switched off, so no
# second model is held. The adapter starts at zero. Before the first step policy and reference are the same function
# on the same batch, and the implicit reward is exactly 0. (The table has no adapter; its reference is a frozen copy.)


# %%
def fresh(name):
    """The policy before the first step."""
    if name == "table":
        return Policy(loading.TableLM(table_world.ref_logps))
    model, _ = loading.load(BASE)
    loading.disable_dropout(model)
    return Policy(loading.with_lora(model, seed=0))


policies = {"table": fresh("table"), "LM": fresh("LM")}
batches = {"table": table_batch, "LM": lm_batch}
examples = {"table": table_example, "LM": lm_example}
for name, policy in policies.items():
    count = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    logps = ", ".join(f"{v:.4f}" for v in policy(batches[name]).tolist())
    print(f"{name:<6} {count:7,} trainable parameters   log π {logps}")

# %% tags=["check"]
for name, policy in policies.items():
    r = BETA * (policy(batches[name]) - policy.reference(batches[name]))
    zero = torch.equal(r, torch.zeros_like(r))
    check.true(f"{name}: the implicit reward at step 0 is bitwise 0", zero, str(r.tolist()))

# %% [markdown]
# ## 6. Losses
#
# A method compares the implicit reward with the feedback. Here are four methods, each with its reading of our row.
# $r$ is short for $r_\theta$. $w$ is the chosen response and $l$ the rejected one. $t \in \{0, 1\}$ is a binary
# label, $s$ a score:
#
# $$
# \begin{aligned}
# \text{dpo, a pair:} \quad & -\log \sigma(r_w - r_l) && \text{UNA Eq. 5} \\
# \text{una-binary-bce, a label:} \quad & -t \log \sigma(r) - (1 - t) \log(1 - \sigma(r)) && \text{UNA Eq. 9} \\
# \text{una-score, a score:} \quad & (r - s)^2 && \text{UNA Eq. 10} \\
# \text{una-centred, scores of a prompt:} \quad & (r + V(x) - s)^2 && \text{UNA Eq. 10 and 23}
# \end{aligned}
# $$
#
# (Equations stand here without the papers' [misprints](../docs/errata.md).) Centred
# UNA computes $V(x)$ for each response: the mean of $s - r$ over the *other* responses of the prompt, without
# gradient.


# %%
def by_hand(r, s, labels, chosen, rejected):
    """The four losses from the implicit rewards of the row's two responses."""
    p = r.sigmoid()
    other = (s - r).detach().flip(0)  # the mean over the one other response is that response's s − r
    return {
        "dpo": -(r[chosen] - r[rejected]).sigmoid().log()[None],
        "una-binary-bce": -(labels * p.log() + (1 - labels) * (1 - p).log()),
        "una-score": (r - s) ** 2,
        "una-centred": (r + other - s) ** 2,
    }


[(chosen, rejected)] = as_pair.pairs
scores, labels = torch.tensor(row.scores), torch.tensor(as_labels.labels)


def by_library(logps, ref, scores=scores):
    """The same from METHODS, whose losses take log-probs by name."""
    one = {"logps": logps, "ref_logps": ref, "beta": BETA}
    pair = {"chosen_logps": logps[[chosen]], "rejected_logps": logps[[rejected]]}
    pair |= {"ref_chosen_logps": ref[[chosen]], "ref_rejected_logps": ref[[rejected]], "beta": BETA}
    return {
        "dpo": METHODS["dpo"].loss(**pair),
        "una-binary-bce": METHODS["una-binary-bce"].loss(**one, labels=labels),
        "una-score": METHODS["una-score"].loss(**one, scores=scores),
        "una-centred": METHODS["una-centred"].loss(**one, scores=scores, groups=torch.tensor([0, 0])),
    }


# %% tags=["check"]
for where, shift in (("at step 0", [0.0, 0.0]), ("elsewhere", [-0.7, 0.4])):
    ref = packed
    logps = ref + torch.tensor(shift)
    mine, theirs = by_hand(BETA * (logps - ref), scores, labels, chosen, rejected), by_library(logps, ref)
    for method in mine:
        values = ", ".join(f"{v:.4f}" for v in theirs[method])
        check.close(f"{where}: {method} = {values}", mine[method], theirs[method], tol=1e-6)

# %% [markdown]
# ## 7. One step
#
# The derivative of a loss by the log-probabilities shows what the loss wants. For the two losses on scores, as
# $\partial r / \partial \log \pi = \beta$:
#
# $$
# \frac{\partial}{\partial \log \pi(y)} (r - s)^2 = 2\beta\,(r - s), \qquad
# \frac{\partial}{\partial \log \pi(y)} (r + V - s)^2 = 2\beta\,(r + V - s).
# $$
#
# > **Guess first:** both scores are positive. Which of the four methods raise the *worse* response in the first step?

# %%
for method in by_library(packed, packed):
    logps = packed.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(by_library(logps, packed)[method].sum(), logps)
    moves = ", ".join(
        f"{y!r} (score {s:.2f}) {'up' if g < 0 else 'down'} {abs(g):.4f}"
        for y, s, g in zip(row.responses, row.scores, gradient.tolist(), strict=True)
    )
    print(f"{method:<15} descent moves  {moves}")

# %% [markdown]
# Three methods raise the better response and lower the worse one. `una-score` raises **both**. Its residual at step 0
# is $-s$, and both scores are positive. It cannot see that one of them is poor *for this prompt*. `una-centred`
# compares each response with the other one.

# %% tags=["check"]
logps = packed.clone().requires_grad_()
losses = by_library(logps, packed)
(raw,) = torch.autograd.grad(losses["una-score"].sum(), logps)
(centred,) = torch.autograd.grad(losses["una-centred"].sum(), logps)
check.close("una-score at step 0: −2βs", raw, -2 * BETA * scores, tol=1e-6)
check.close("una-centred at step 0: 2β(s' − s)", centred, 2 * BETA * (scores.flip(0) - scores), tol=1e-6)

shifted = by_library(logps, packed, scores + 10)
(raw_shifted,) = torch.autograd.grad(shifted["una-score"].sum(), logps)
(centred_shifted,) = torch.autograd.grad(shifted["una-centred"].sum(), logps)
check.close("all scores + 10: una-centred's gradient is the same", centred_shifted, centred, tol=1e-5)
check.differs("all scores + 10: una-score's gradient changes", raw_shifted, raw, by=1.0)
known = [METHODS[name].shift_invariant for name in ("una-centred", "una-score")]
check.true("the registry agrees: shift_invariant", known == [True, False], str(known))

# %% [markdown]
# The rest is backpropagation into the policy's parameters. In the table it is one line. Let
# $\pi = \text{softmax}(\ell)$ be the prompt's row and $g_b$ the derivative for response $y_b$:
#
# $$\frac{\partial L}{\partial \ell_k} = \sum_b g_b \left( [y_b = k] - \pi_k \right).$$

# %% tags=["check"]
columns = torch.tensor([4, 0])  # the row's responses in the table
ref = table_world.ref_logps[0]
pi = ref.exp()
given = scores.double()


def slope(g):
    """∂L/∂ℓ from the derivatives by the two log-probs."""
    picked = torch.nn.functional.one_hot(columns, 6)
    return (g[:, None] * (picked - pi)).sum(0)


g = {
    "una-centred": 2 * BETA * (given.flip(0) - given) / 2,
    "una-score": -2 * BETA * given / 2,
}  # halved: the mean over two
for method in g:
    logits = ref.clone().requires_grad_()
    loss = by_library(logits.log_softmax(-1)[columns], ref[columns], given)[method].mean()
    (truth,) = torch.autograd.grad(loss, logits)
    check.close(f"{method}: ∂L/∂ℓ by hand = autograd", slope(g[method]), truth)
picked_only = torch.zeros(6).double().index_add(0, columns, g["una-score"])
check.differs("una-score without the −π_k: another gradient", picked_only, slope(g["una-score"]), by=0.1)

# %% [markdown]
# The optimizer is AdamW. Its first step moves every coordinate by the learning rate $\eta$ against the sign of its
# derivative $d$:
#
# $$\Delta = -\eta\, \frac{d}{|d| + 10^{-8}}$$
#
# So a step of the table can be computed by hand and compared with `Trainer.step`. Here is the step, on both policies
# and with both losses on scores.


# %%
def trainer(policy, method, **settings):
    """The library's trainer for one method on scores; all other settings keep their defaults."""
    config = Config(method=method, loss_kwargs={"beta": BETA}, **settings)
    return Trainer(policy, {"scores": METHODS[method].loss}, config)


ONE = {"table": 0.1, "LM": 3e-4}  # learning rates
after = {}
for method in ("una-centred", "una-score"):
    for name in policies:
        policy, batch = fresh(name), batches[name]
        one_step = trainer(policy, method, lr=ONE[name], steps=1, warmup=0.0)
        metrics = one_step.step(0, [examples[name]])
        with torch.no_grad():
            before, now = policy.reference(batch), policy(batch)
        after[method, name] = policy, now - before
        print(f"{method} on the {name}: loss {metrics['loss']:.4f}, gradient norm {metrics['grad_norm']:.4f}")
        for y, s, old, new in zip(row.responses, row.scores, before.tolist(), now.tolist(), strict=True):
            print(f"    {y:<8} score {s:.2f}   log π {old:8.4f} -> {new:8.4f}   reward {BETA * (new - old):+.4f}")

# %% [markdown]
# `una-centred` has widened the gap. Its loss depends only on the gap, so a small descent step must widen it, for any
# policy. In the table `una-score` has raised both responses by the same amount, so the gap is what it was. AdamW's
# first step follows only the sign of each derivative, and the two signs agree. In the LM the responses share weights,
# and the two changes differ.

# %% tags=["check"]
for method in g:
    step = -ONE["table"] * slope(g[method]) / (slope(g[method]).abs() + 1e-8)
    logits = after[method, "table"][0].model.table.weight.detach()
    check.close(f"table, {method}: Trainer.step = AdamW by hand", logits[0] - ref, step, tol=1e-6)
    check.close(f"table, {method}: the other prompts have not moved", logits[1:], table_world.ref_logps[1:])

better, worse = chosen, rejected
for name in policies:
    moved = after["una-centred", name][1]
    evidence = f"{moved[better]:+.4f} and {moved[worse]:+.4f}"
    check.true(f"{name}, una-centred: the gap widens", moved[better] > moved[worse], evidence)
    moved = after["una-score", name][1]
    evidence = f"{moved[better]:+.4f} and {moved[worse]:+.4f}"
    check.true(
        f"{name}, una-score: the score-weighted change is positive", scores.double() @ moved.double() > 0, evidence
    )
up, down = after["una-centred", "table"][1][[better, worse]].tolist()
check.true("table, una-centred: better up, worse down", up > 0 > down, f"{up:+.4f} and {down:+.4f}")
up_worse, up_better = after["una-score", "table"][1][[worse, better]].tolist()
check.true("table, una-score: both go up", min(up_worse, up_better) > 0, f"{up_worse:+.4f} and {up_better:+.4f}")
check.close("table, una-score: by the same amount", up_worse, up_better, tol=1e-6)

# %% [markdown]
# ## 8. All steps: the exact optimum
#
# Where do the steps lead? The objective is to maximise (UNA Eq. 3)
#
# $$J(\pi) = \mathbb{E}_{y \sim \pi}\, s(x, y) - \beta\, \text{KL}(\pi \,\|\, \pi_\text{ref}).$$

# %% [markdown]
# The maximiser is known in closed form (UNA Eq. 4 solved for $\pi$):
#
# $$\pi^*(y \mid x) = \frac{\pi_\text{ref}(y \mid x)\, e^{s(x, y)/\beta}}{Z(x)}, \qquad
# Z(x) = \sum_y \pi_\text{ref}(y \mid x)\, e^{s(x, y)/\beta}$$


# %%
def optimum(ref_logps, scores, beta):
    """log π* and log Z, from the definition."""
    weights = ref_logps.exp() * (scores / beta).exp()
    Z = weights.sum(-1, keepdim=True)
    return (weights / Z).log(), Z.log()[:, 0]


best, log_z = optimum(table_world.ref_logps, table_world.rewards, BETA)
print(f"{row.prompt!r} in the table, β·log Z = {BETA * log_z[0]:.4f}")
for y, column in enumerate(likeliest[0].tolist()):
    print(
        f"    {world.text(column):<8} score {table_world.rewards[0, y]:.3f}"
        f"   π_ref {table_world.ref_logps[0, y].exp():.3f}   π* {best[0, y].exp():.3f}"
    )

# %% [markdown]
# The regret of a policy is its distance from the optimum in $J$. It is a KL:
#
# $$J(\pi^*) - J(\pi) = \beta\, \text{KL}(\pi \,\|\, \pi^*)$$
#
# It is a sum over 6 responses in the table and over 3,906 in the LM's world. Both are computed exactly, not
# estimated.

# %% tags=["check"]
lm_world = SequenceWorld(ref_next, world.scores, BETA, length=toysteer.LENGTH)
check.close("π* by hand = TableWorld.optimum", best, table_world.optimum)
check.close("log Z by hand = TableWorld.log_partition", log_z, table_world.log_partition)
for name, exact, tol in (("table", table_world, 1e-12), ("LM's world", lm_world, 1e-6)):  # the LM is float32
    at_ref = exact.metrics(exact.ref_logps)
    check.close(f"{name}: regret of π_ref = β·KL(π_ref‖π*)", at_ref["regret"], BETA * at_ref["kl_to_optimum"], tol)
    check.close(f"{name}: regret of π* = 0", exact.metrics(exact.optimum)["regret"], 0.0)

# %% [markdown]
# **Is $\pi^*$ where the steps end?** Take the logarithm of $\pi^*$ and multiply by $\beta$:
#
# $$\beta \log \frac{\pi^*}{\pi_\text{ref}} = s - \beta \log Z(x)$$
#
# At the optimum the implicit reward is the score *minus one number per prompt*. With $V(x) = \beta \log Z(x)$ every
# residual is 0. Nobody has to know $Z$: at the optimum the mean of $s - r_\theta$ over other responses is that
# number. Without $V(x)$ every residual is $-\beta \log Z(x)$, so $\pi^*$ is not where `una-score` rests.

# %% tags=["check"]
flat = {
    "logps": table_world.optimum.flatten(),
    "ref_logps": table_world.ref_logps.flatten(),
    "scores": table_world.rewards.flatten(),
    "beta": BETA,
}
groups = torch.arange(PROMPTS).repeat_interleave(6)
check.close("at π*: una-centred's loss is 0", METHODS["una-centred"].loss(**flat, groups=groups), 0.0)
offset = (BETA * table_world.log_partition)[groups]
check.close("at π*: una-score with baseline β·log Z is 0", METHODS["una-score"].loss(**flat, baseline=offset), 0.0)
check.close("at π*: una-score without is (β·log Z)²", METHODS["una-score"].loss(**flat), offset**2)
check.differs("at π*: una-score is not at rest", METHODS["una-score"].loss(**flat), 0.0, by=0.5)

# %% [markdown]
# **Where does `una-score` end, then?** Let the responses be sampled from $\pi_\text{ref}$ and write
# $u = \log \frac{\pi}{\pi_\text{ref}}$. The loss is $\mathbb{E}_{\pi_\text{ref}} (\beta u - s)^2$, under the
# constraint $\mathbb{E}_{\pi_\text{ref}} e^u = 1$. With a multiplier $c(x)$ for each prompt, its minimum satisfies
#
# $$\beta u - s = c(x)\, e^u.$$
#
# Averaged over $\pi_\text{ref}$ the right side is $c$, so $c$ is the mean residual. A free $V(x)$ would make it 0,
# and $c = 0$ is $\pi^*$. Without $V(x)$ two terms are left:
#
# $$\mathbb{E}_{\pi_\text{ref}} u = \sum_y \pi_\text{ref} \log \frac{\pi}{\pi_\text{ref}}
# = -\text{KL}(\pi_\text{ref} \,\|\, \pi)
# \quad\Rightarrow\quad
# c = -\beta\, \text{KL}(\pi_\text{ref} \,\|\, \pi) - \mathbb{E}_{\pi_\text{ref}} s .$$
#
# With positive scores both are negative, so $c < 0$. (Two equally likely responses with scores $(1, 1)$: the policy
# stays, $u = 0$, and $c = -1$.) Each reward falls short of its score in proportion to $\pi / \pi_\text{ref}$, most for
# the good responses. For a given $c$ Lambert's $W$ solves the equation. Bisection finds $c$.


# %%
def where_una_score_ends(ref_logps, scores, beta):
    """log π with βu − s = c(x)·e^u and probabilities that sum to one."""
    low, high = -scores.amax(-1, keepdim=True), torch.zeros(len(scores), 1).double()
    for _ in range(60):
        c = (low + high) / 2
        u = scores / beta - lambertw(-c / beta * (scores / beta).exp()).real
        too_much = (ref_logps + u).exp().sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, low, c), torch.where(too_much, c, high)
    return ref_logps + u


worlds = {"table": table_world, "LM": lm_world}
ends = {name: where_una_score_ends(exact.ref_logps, exact.rewards, BETA) for name, exact in worlds.items()}
start = {name: exact.metrics(exact.ref_logps)["regret"] for name, exact in worlds.items()}
floor = {name: exact.metrics(ends[name])["regret"] for name, exact in worlds.items()}
for name in worlds:
    print(f"{name:<6} regret of π_ref {start[name]:.4f}, where una-score ends {floor[name]:.4f}, of π* 0")

# %% [markdown]
# The library's `fixed_point` does the same for any loss: it minimises a population loss over all policies of a table.


# %% tags=["check"]
def population(logps):
    """una-score averaged over y ~ π_ref, summed over prompts."""
    loss = METHODS["una-score"].loss(**flat | {"logps": logps.flatten()})
    return (table_world.ref_logps.exp().flatten() * loss).sum()


found = fixed_point(population, table_world.ref_logps)
check.close("where una-score ends = fixed_point(una-score)", ends["table"], found, tol=1e-8)
residual = BETA * (found - table_world.ref_logps) - table_world.rewards
c = residual / (found - table_world.ref_logps).exp()
by_kl = -BETA * (table_world.ref_logps.exp() * (table_world.ref_logps - found)).sum(-1, keepdim=True)
by_kl = by_kl - (table_world.ref_logps.exp() * table_world.rewards).sum(-1, keepdim=True)
check.close("c = −β·KL(π_ref‖π) − E s, one number per prompt", c, by_kl.expand_as(c), tol=1e-8)
check.differs("the end of una-score is not π*", found.exp(), table_world.optimum.exp(), by=0.03)

# %% [markdown]
# ## 9. All steps, taken
#
# Now the same `Trainer` takes many steps. The data are responses sampled from $\pi_\text{ref}$ with their scores. The
# table has one row per prompt with 100 responses. Each response appears as often as its probability in hundredths, so
# a batch of the four rows *is* the expectation. The LM has rows of 16 samples, and uses four rows per step.

# %%
LR = {"table": 0.1, "LM": 3e-3}
STEPS = {"table": 160, "LM": scale(full=400, ci=80)}

table_rows = [
    Example((x,), tuple((y,) for y in ys), tuple(table_world.rewards[x, ys].tolist()), prompt_index=x)
    for x, counts in enumerate(hundredths.long())
    for ys in [torch.arange(6).repeat_interleave(counts).tolist()]
]
draws = world.draw(scale(full=512, ci=128), ref_logps, seed=0, k=16)
lm_rows = encoder.encode(
    Row(world.prompts[x], tuple(world.text(y) for y in ys), scores=tuple(world.scores[x, ys].tolist()))
    for x, *ys in draws.tolist()
)


def curve(method, name, rows, regret, every):
    """(steps, regrets) of a training run, and the policy it ends with."""
    policy = fresh(name)
    loop = trainer(policy, method, lr=LR[name], steps=STEPS[name], batch=4)
    loop.remember_reference(rows)
    at, regrets = [0], [start[name]]
    for step in range(STEPS[name]):
        loop.step(step, [rows[i] for i in order(len(rows), step, 4, seed=0)], record=False)
        if (step + 1) % every == 0:
            at.append(step + 1)
            regrets.append(regret(policy.model))
    return at, regrets, policy


curves = {}
for method in ("una-centred", "una-score"):
    curves["table", method] = curve(
        method, "table", table_rows, lambda model: table_world.metrics(model.logps.detach())["regret"], every=4
    )
    curves["LM", method] = curve(
        method, "LM", lm_rows, lambda model: lm_world.metrics(all_logps(model))["regret"], every=STEPS["LM"] // 8
    )
for (name, method), (at, regrets, _) in curves.items():
    print(f"{name:<6} {method:<12} regret {regrets[0]:.4f} -> {regrets[-1]:.4f} after {at[-1]} steps")

# %% tags=["check"]
end = {key: regrets[-1] for key, (_, regrets, _) in curves.items()}
check.close("table, una-centred: the regret goes to 0", end["table", "una-centred"], 0.0, tol=1e-7)
check.close("table, una-score: to the computed end", end["table", "una-score"], floor["table"], tol=1e-5)
check.differs("table, una-score: the computed end is not 0", end["table", "una-score"], 0.0, by=0.01)

ratio = {method: end["LM", method] / start["LM"] for method in ("una-centred", "una-score")}
less, more = ratio["una-centred"], ratio["una-score"]
check.true("LM, una-centred: less than half the regret is left", less < 0.5, f"{less:.2f} left")
check.true("LM, una-score: more regret is left", more > less + 0.1, f"{more:.2f} left")

# %%
colour = {"una-centred": figures.PALETTE["vermilion"], "una-score": figures.PALETTE["blue"]}
grey = figures.PALETTE["grey"]
titles = {"table": "the table, 4 prompts × 6 responses", "LM": "the tiny LM, 4 prompts × 3,906 responses"}
fig, axes = plt.subplots(1, 2, figsize=(9.2, 3.9), sharey=True)
for ax, name in zip(axes, titles, strict=True):
    ax.axhline(start[name], color=grey, linestyle="--", linewidth=1)
    ax.axhline(floor[name], color=colour["una-score"], linestyle=":", linewidth=1.6)
    for method in colour:
        at, regrets, _ = curves[name, method]
        style = "o-" if name == "LM" else "-"
        ax.plot(at, regrets, style, color=colour[method], clip_on=False, zorder=3)
    ax.set_xlim(0, STEPS[name])
    ax.set_ylim(0, 1.12 * max(start.values()))
    ax.set_title(titles[name])
    ax.set_xlabel("optimizer steps")
    put = {"ha": "right", "transform": ax.get_yaxis_transform()}
    ax.text(0.98, start[name] + 0.0006, r"$\pi_\mathrm{ref}$, before the first step", color=grey, **put)
    ax.text(0.98, floor[name] - 0.0024, "end of una-score, computed beforehand", color=colour["una-score"], **put)
    ax.text(0.98, curves[name, "una-score"][1][-1] + 0.0011, "una-score", color=colour["una-score"], **put)
    ax.text(0.98, end[name, "una-centred"] + 0.0011, "una-centred", color=colour["una-centred"], **put)
axes[0].set_ylabel(r"exact regret  $J(\pi^*) - J(\pi)$")
figures.save(fig, "00_one_row_to_one_step")
plt.show()

# %% [markdown]
# The dotted lines were computed before any training. In the table `una-centred` goes to 0 and `una-score` to its
# line. (It passes below the line first, because its loss is not the regret.) The LM approaches its ends less exactly:
# it sees samples and takes few steps. What is left of the regret of `una-centred` there? The regret
# $\beta \sum_y \pi \log (\pi / \pi^*)$ splits into two parts: responses that some row has shown, and all others.

# %% tags=["check"]
shown = torch.zeros_like(ref_logps, dtype=torch.bool)
shown[draws[:, :1], draws[:, 1:]] = True
logps = all_logps(curves["LM", "una-centred"][2].model)
parts = BETA * logps.exp() * (logps - lm_world.optimum)
inside, outside = ((parts * part).sum(1).mean() for part in (shown, ~shown))
print(f"{int(shown.sum(1).double().mean())} of 3,906 responses were shown (mean over prompts)")
print(f"regret {inside + outside:.4f}: {inside:.4f} on those, {outside:.4f} on the others")
mass = {}
for name, policy in (("π_ref", ref_logps), ("una-centred", logps), ("π*", lm_world.optimum)):
    mass[name] = (policy.exp() * ~shown).sum(1).mean()
    print(f"    mass on the others: {name:<12} {mass[name]:.4f}")
check.close("the two parts sum to the regret", inside + outside, end["LM", "una-centred"], tol=1e-6)
evidence = f"{mass['una-centred']:.4f} > {mass['π*']:.4f}"
check.true("too much mass on unseen responses", mass["una-centred"] > mass["π*"], evidence)

# %% [markdown]
# ## What we learned
#
# - A prompt can stand once for all its responses. The mask keeps the responses apart: *packed = padded*. With a
#   causal mask the second response is scored wrongly: *causal mask: the second response changes*.
# - The tiny LM and the table go through the same `collate`, `sequence_logprobs`, `Policy`, losses and `Trainer`: *LM:
#   sequence_logprobs = the plain way*, *Trainer.step = AdamW by hand*.
# - Before the first step the implicit reward is exactly 0: *the implicit reward at step 0 is bitwise 0*.
# - A method is a few lines on log-probabilities: *at step 0*, *elsewhere*.
# - UNA's score loss, Eq. 10, reads positive scores as "raise everything": *table, una-score: both go up*.
#   With $V(x)$ an offset in the scores has no effect: *all scores + 10*.
# - With $V(x)$ the steps in the table end at $\pi^*$: *table, una-centred: the regret goes to 0*. Without it they end
#   at another policy, which can be computed before training: *table, una-score: to the computed end*.
#
# ## Limits
#
# - This is one world, one seed, one $\beta$, and settings that were not tuned. It shows where two losses end; it does
#   not rank methods. A ranking takes seeds, intervals and a grid for each method: `una-ref compare`.
# - `una-score` is off by $\beta \log Z(x)$ and by nothing else: *una-score with baseline β·log Z is 0*. It ends at
#   $\pi^*$ for scores with $Z(x) = 1$. Scores in $[0, 1]$ have $Z(x) > 1$ unless all are 0.
# - The responses were sampled from $\pi_\text{ref}$ once. The data say nothing about responses that were never
#   sampled: *too much mass on unseen responses*. `UNA_REF_SCALE=full` uses more rows and more steps. Then both curves
#   of the LM come closer to their ends.
# - A large model's responses cannot be listed, so it has no exact regret. In bfloat16 two layouts agree only up to
#   rounding. The calls are the same.
#
# ## Exercises
#
# Put your answer in place of `...` and run the cell; it checks it. Hints and answers are folded below.
#
# **1.** (Pencil.) Three responses have 4, 2 and 3 tokens, EOS included. They stand behind a prompt of 5 tokens. Write
# down `until`.

# %%
mine = ...  # a list

truth = collate([Example((1, 1, 1, 1, 1), ((1, 1, 1, 0), (2, 0), (3, 3, 0)))]).until[0]
if mine is not ...:
    check.close("exercise 1", mine, truth)

# %% [markdown]
# **2.** (Pencil.) Subtract a number $c$ from both scores of our row, so that `una-score` at step 0 has the direction of
# `una-centred`. Which $c$? By which factor do the two gradients then differ?

# %%
mine = ...  # (c, the factor by which una-centred's gradient is larger)

if mine is not ...:
    logps = packed.clone().requires_grad_()
    (raw,) = torch.autograd.grad(by_library(logps, packed, scores - mine[0])["una-score"].sum(), logps)
    check.close("exercise 2", mine[1] * raw, centred, tol=1e-6)

# %% [markdown]
# **3.** (Code.) For which $\beta$ does $\pi^*$ give the correct answer to our prompt a probability of 99 % in the
# table? Find it to three digits.

# %%
mine = ...  # β

if mine is not ...:
    check.close("exercise 3", optimum(table_world.ref_logps, table_world.rewards, mine)[0][0, 0].exp(), 0.99, tol=1e-4)

# %% [markdown]
# **4.** (Open.) Your file has one scored response per prompt. Which of the four methods can learn which of two
# responses to a prompt is better, and what would you collect next?
#
# <details>
# <summary>Hints</summary>
#
# **1.** Which tokens does a prompt token have to be seen by? **2.** What is $s - \bar s$ for two scores? **3.** Does
# the probability rise or fall with $\beta$?
#
# </details>
#
# <details>
# <summary>Answers</summary>
#
# **1.** Without their last tokens the responses have 3, 1 and 2 tokens: `[11] * 5 + [8] * 3 + [9] + [11] * 2`.
#
# **2.** `(scores.mean(), 2)`. With two responses, $s - \bar s$ is half of $s - s'$. The mean over both contains the
# response itself; the leave-one-out mean does not.
#
# **3.** The probability rises as $\beta$ falls, so bisection finds it:
#
# ```python
# low, high = 0.05, BETA
# for _ in range(40):
#     mine = (low + high) / 2
#     enough = optimum(table_world.ref_logps, table_world.rewards, mine)[0][0, 0].exp() > 0.99
#     low, high = (mine, high) if enough else (low, mine)
# ```
#
# **4.** DPO and `una-centred` need two responses of a prompt. `una-score` and the labels learn from one, and mix up
# easy prompts with good responses. A second scored response per prompt is worth more than a new prompt.
#
# </details>
