"""A tiny model on disk, and a local server that answers like an OpenAI-compatible judge."""

import json
from contextlib import contextmanager

import pytest

TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "Write a short poem about rain. The rain falls on the roof all night.",
    "How many legs has a spider? A spider has eight legs.",
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A random Mistral with a chat template, whose answers differ in length."""
    from una_ref.policies.loading import byte_pair_tokenizer, small_mistral

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = byte_pair_tokenizer(TEXTS, 300)
    tokenizer.chat_template = TEMPLATE
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 2048}
    model = small_mistral(tokenizer, seed=1, **size)
    for parameter in model.parameters():
        parameter.data *= 3  # far from uniform, so that greedy answers depend on the prompt
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_subject(tiny_folder, tmp_path_factory):
    """The same, loaded."""
    from una_ref.evaluation.subject import subject

    return subject(str(tiny_folder), output=str(tmp_path_factory.mktemp("results")))


@pytest.fixture
def judge_server(loopback):
    """judge_server(reply): a context with the URL of a judge and its requests.

    reply(messages, number) returns the text of a completion, a whole body, or (status, body).
    """

    @contextmanager
    def serve(reply):
        requests = []

        def answer(request, number):
            asked = json.loads(request.body)
            requests.append(asked)
            said = reply(asked["messages"], number)
            status, body = said if isinstance(said, tuple) else (200, said)
            return status, completion(body) if isinstance(body, str) else body

        with loopback(answer) as url:
            yield f"{url}/v1", requests

    return serve


def completion(text, top=()):
    """The body of a chat completion; `top` are (token, log-prob) of the first token."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if top:
        tokens = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in top]
        choice["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens}]}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.fixture
def completion_body():
    """The function `completion`."""
    return completion
