"""A judge behind an OpenAI-compatible endpoint: requests in parallel, each repeated until its reply can be read."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from una_ref.errors import InputError

NAME = re.compile(r"judge:(?P<model>.+)@(?P<url>https?://[^@\s]+)")
"""A judge's name: judge:MODEL@http://host:port/v1."""

Messages = list[dict[str, str]]
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Endpoint:
    """A model behind a chat endpoint.

    The client repeats a call that times out or gets status 429 or 5xx; its wait doubles each time, or is as long as the
    server asks for. A reply that cannot be read is requested again in the same way. After `workers` failed calls in a
    row, no further calls are made.

    Args:
        model: its name at the endpoint.
        url: of the endpoint, up to and including /v1. OPENAI_API_KEY, if set, is sent there and written nowhere.
        workers: calls at the same time.
        retries: repetitions of a failed call, and of a call whose reply cannot be read.
        timeout: of a call, in seconds.
        wait: before the first repetition after a reply that cannot be read, in seconds.

    Raises:
        InputError: the client (extra `judge`) is not installed.
    """

    def __init__(
        self, model: str, url: str, *, workers: int = 8, retries: int = 4, timeout: float = 60.0, wait: float = 0.5
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError("reward judge: expected the openai client, got none; install una_ref[judge]") from error
        self.model, self.url = model, url
        self.workers, self.retries, self.wait = workers, retries, wait
        key = os.environ.get("OPENAI_API_KEY") or "none"  # the client insists on a key, a local server does not
        self.client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=retries)
        self._failures_in_a_row = 0

    def ask(self, requests: Sequence[Messages], read: Callable[[Any], T | None], **options: Any) -> Iterator[T | None]:
        """What was read in each reply, in the order of the requests, as soon as it is there; None without a reply.

        Args:
            requests: each is a list of messages {"role": ..., "content": ...}.
            read: chat completion -> what it says; None, LookupError, TypeError or AttributeError if it cannot be read.
            options: of every call, such as temperature=0.

        Raises:
            InputError: the endpoint refuses the key, or does not know the model.
        """
        faults: Counter[str] = Counter()
        self._failures_in_a_row = 0
        pool = ThreadPoolExecutor(self.workers)
        try:
            yield from pool.map(lambda messages: self._ask(messages, read, options, faults), requests)
        finally:
            pool.shutdown(cancel_futures=True)
        if faults:
            most = "; ".join(f"{reason} ({count})" for reason, count in faults.most_common(3))
            _log.warning(
                "judge %s: %d of %d calls without a verdict: %s", self.model, faults.total(), len(requests), most
            )

    def check(self, read: Callable[[Any], Any] | None = None, **options: Any) -> None:
        """Send one short request, so that a long evaluation does not begin without its judge.

        Args:
            read: as in `ask`; by default any chat completion will do.
            options: of the call.

        Raises:
            InputError: nothing answers at the URL, or its reply cannot be read.
        """
        import openai

        messages: Any = [{"role": "user", "content": "Reply with the letter m."}]
        reply = ""
        try:
            completion = self.client.with_options(max_retries=1).chat.completions.create(
                model=self.model, messages=messages, **options
            )
            reply = text(completion)
            if (read or text)(completion) is not None:
                return
            problem = f"a reply without it: {reply!r:.60}"
        except (openai.OpenAIError, ValueError) as error:
            problem = (str(error) or type(error).__name__).rstrip(".")
        except (AttributeError, LookupError, TypeError):  # not a completion, or without what is read
            problem = f"a reply without it: {reply!r:.60}"
        what = " with ".join(["a chat completion", *(key for key in options if key == "top_logprobs")])
        raise InputError(
            f"judge {self.model} at {self.url}: expected {what}, got {problem}. "
            f"Fix: start the server, or name another one as judge:MODEL@http://host:port/v1"
        )

    def _ask(
        self, messages: Any, read: Callable[[Any], T | None], options: dict[str, Any], faults: Counter[str]
    ) -> T | None:
        """What was read in one reply; None without one, counted in `faults` by its reason."""
        import openai

        if self._failures_in_a_row >= self.workers:
            faults["not sent, the server does not answer"] += 1
            return None
        reply = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            completion: Any = None
            try:
                completion = self.client.chat.completions.create(model=self.model, messages=messages, **options)
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                raise InputError(
                    f"reward judge: expected an endpoint that serves {self.model}, got: {error}"
                ) from error
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
                self._failures_in_a_row += 1
                faults[type(error).__name__] += 1
                return None
            except openai.APIStatusError as error:  # such as a prompt that is too long for the model
                faults[f"{type(error).__name__}: {error}"[:200]] += 1
                return None
            except ValueError:  # not JSON
                pass
            self._failures_in_a_row = 0
            try:
                reply = text(completion)
                value = read(completion)
            except (AttributeError, LookupError, TypeError):  # JSON of something else
                continue
            if value is not None:
                return value
        faults[f"no verdict in {reply!r:.60}"] += 1
        return None


def text(completion: Any) -> str:
    """The text of a chat completion. Raises AttributeError, LookupError or TypeError for anything else."""
    return str(completion.choices[0].message.content or "")


def endpoint(name: str, **options: Any) -> Endpoint:
    """The endpoint that a judge's name stands for.

    Args:
        name: judge:MODEL@http://host:port/v1.
        options: of `Endpoint`.

    Raises:
        InputError: not a judge's name.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise InputError(f"judge {name!r}: expected judge:MODEL@http://host:port/v1, got another name")
    return Endpoint(found["model"], found["url"], **options)
