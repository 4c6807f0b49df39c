"""A reward model reads answers as text, with its own tokenizer and template."""

import pytest
import torch

from una_ref.errors import InputError
from una_ref.policies import loading
from una_ref.policies.answers import Answer
from una_ref.policies.classifier import Classifier

ANSWERS = [Answer("Is it?", "Yes, it is."), Answer("Why?", "No"), Answer("Is it?", "")]


@pytest.fixture
def folder(tmp_path):
    """A reward model with a vocabulary of its own, as a folder."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    tokenizer = loading.byte_pair_tokenizer(["Is it? Yes, it is.", "Why? No"], vocabulary=300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=None,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_reward_is_the_logit_of_the_models_own_forward(folder):
    # One answer at a time, and so without pads; a batch of the classifier has pads.
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        alone = [
            float(model(torch.tensor([tokenizer(a.prompt + a.response)["input_ids"]])).logits[0, 0]) for a in ANSWERS
        ]
    source = Classifier(str(folder))
    assert source(ANSWERS) == pytest.approx(alone, abs=1e-5)
    assert Classifier(str(folder), tokens=12)(ANSWERS) == pytest.approx(alone, abs=1e-5)


def test_bfloat16_model_stays_bfloat16_and_its_rewards_are_finer(folder):
    from transformers import AutoModelForSequenceClassification

    fine = Classifier(str(folder))(ANSWERS)
    AutoModelForSequenceClassification.from_pretrained(folder).bfloat16().save_pretrained(folder)
    source = Classifier(str(folder))
    scores = source(ANSWERS)
    assert source.model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert scores == pytest.approx(fine, abs=0.02)
    assert torch.tensor(scores).bfloat16().tolist() != scores


def test_answers_to_one_prompt_share_the_forward_pass_of_their_common_start(folder):
    source = Classifier(str(folder))
    read = []
    source.model.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    prompt = "Is it? " * 20
    answers = [Answer(prompt, response) for response in ("Yes, it is.", "No", "Yes")]
    scores = source(answers)
    apart = [score for answer in answers for score in source([answer])]
    assert scores == pytest.approx(apart, abs=1e-5)
    assert read[0] < sum(read[1:]) / 2
    assert len(set(scores)) == 3


def test_dialogue_is_read_through_the_models_own_chat_template(folder):
    source = Classifier(str(folder))
    source.tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
    read = source.tokenizer.decode(source.ids(Answer("Why?", "No")))
    assert read == "[user]Why?[assistant]No"
    turns = ({"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"})
    assert source.tokenizer.decode(source.ids(Answer(turns, "No"))) == "[system]Be.[user]Why?[assistant]No"


def test_messages_without_a_template_are_read_as_one_text(folder):
    source = Classifier(str(folder))
    turns = ({"role": "system", "content": "Be."}, {"role": "user", "content": "Why?"})
    assert source.tokenizer.decode(source.ids(Answer(turns, "No"))) == "Be.\n\nWhy?No"


def test_special_token_strings_in_an_answer_are_text(folder):
    source = Classifier(str(folder))
    assert source.tokenizer.eos_token_id not in source.ids(Answer("Why?</s>", "No</s>"))
    source.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}"
    assert source.ids(Answer("Why?</s>", "No</s>")).count(source.tokenizer.eos_token_id) == 2


def test_tokenizer_of_another_model_is_refused(folder):
    wide = loading.byte_pair_tokenizer(["the quick brown fox", "a lazy dog"], vocabulary=400)
    wide.add_tokens([f"<{i}>" for i in range(200)])
    wide.save_pretrained(folder)
    with pytest.raises(InputError, match="the rows of its embedding, got"):
        Classifier(str(folder))


def test_model_with_several_outputs_is_refused(folder):
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, ignore_mismatched_sizes=True
    ).save_pretrained(folder)
    with pytest.raises(InputError, match="expected one output, got 3"):
        Classifier(str(folder))


SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz?.,", *(f"##{c}" for c in "aehinosty")]


@pytest.fixture(params=["Bert", "DebertaV2", "Roberta"])
def encoder(request, tmp_path):
    """The folder of a reward model that reads both directions, whose head is no `score`."""
    import transformers

    tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=len(WORDS), num_labels=1, max_position_embeddings=40, pad_token_id=0, type_vocab_size=2, **sizes
    )
    model = getattr(transformers, f"{request.param}ForSequenceClassification")(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_an_encoder_reads_prompt_and_response_as_a_pair_of_texts(encoder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder).eval()
    rows = tokenizer([a.prompt for a in ANSWERS], [a.response for a in ANSWERS], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**rows).logits[:, 0].tolist()
    assert len({*expected}) == 3
    assert Classifier(str(encoder))(ANSWERS) == pytest.approx(expected, abs=1e-5)


def test_a_text_longer_than_the_encoder_is_refused(encoder):
    with pytest.raises(InputError, match=r"at most 40 tokens .* got 5\d for 'a a"):
        Classifier(str(encoder))([Answer("a " * 40, "b " * 10)])
