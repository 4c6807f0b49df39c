"""What the store notes while it is filled is what a pass over all examples would find."""

import hashlib
import math

from una_ref.data.batch import Example, Prompt
from una_ref.data.examples import Examples, digest

SCORED = Example((1, 5), ((7, 2), (8, 2)), scores=(0.5, -1.25), prompt_index=0, source="f:1")
LABELLED = Example((1, 6), ((7, 2),), labels=(1.0,), prompt_index=1, source="f:2")
PAIRED = Example((1, 6), ((7, 2), (9, 2)), pairs=((0, 1),), prompt_index=1, source="f:3")
DEMO = Example((1, 7), ((7, 2),), prompt_index=2, source="f:4")
ALL = [SCORED, LABELLED, PAIRED, DEMO]


def test_kinds_range_means_and_prompts_are_those_of_the_examples():
    examples = Examples(ALL)
    assert examples == ALL
    assert examples.kinds == {"scores", "labels", "pairs", "demos"}
    assert (examples.lowest, examples.highest) == (-1.25, 0.5)
    assert examples.mean("scores") == -0.375 and examples.mean("labels") == 1.0 and examples.mean("pairs") is None
    assert examples.alone == {"labels": "f:2", "demos": "f:4"}
    assert list(examples.prompts) == [0, 1, 1, 2]


def test_scores_beside_pairs_are_no_scores_of_their_own():
    examples = Examples([Example((1, 6), ((7, 2), (9, 2)), scores=(2.0, 1.0), pairs=((0, 1),))])
    assert examples.kinds == {"pairs"} and examples.mean("scores") is None and examples.mean("pairs") is None


def test_a_list_has_a_kind_of_its_own():
    examples = Examples([Example((1, 6), ((7, 2), (9, 2)), scores=(2.0, 1.0), as_list=True)])
    assert examples.kinds == {"lists"} and examples.mean("lists") == 1.5 and examples.mean("scores") is None


def test_appended_examples_are_noted():
    examples = Examples(ALL[:1])
    assert examples.kinds == {"scores"}
    examples.extend(ALL[1:])
    whole = Examples(ALL)
    assert vars(examples).keys() == vars(whole).keys()
    for name in ("kinds", "lowest", "highest", "sums", "alone", "prompts", "digest"):
        assert getattr(examples, name) == getattr(whole, name)


def test_without_scores_their_range_is_infinite():
    examples = Examples([PAIRED])
    assert (examples.lowest, examples.highest) == (math.inf, -math.inf) and examples.mean("scores") is None


def test_the_digest_names_tokens_feedback_and_order():
    contents = [(e.prompt, e.responses, e.scores, e.labels, e.pairs) for e in ALL]
    expected = hashlib.sha256("".join(map(repr, contents)).encode()).hexdigest()[:16]
    assert Examples(ALL).digest == digest(Examples(ALL)) == digest(ALL) == expected
    assert digest(ALL[::-1]) != expected
    prompts = [Prompt((1, 5), "red", 0, "f:1"), Prompt((1, 6), "cat", 1, "f:2")]
    assert digest(prompts) == Examples(prompts).digest == hashlib.sha256(b"((1, 5),)((1, 6),)").hexdigest()[:16]
    assert Examples(prompts).kinds == set() and list(Examples(prompts).prompts) == [0, 1]
