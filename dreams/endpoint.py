"""Asks a multimodal language model behind any OpenAI-compatible server, and pays for each answer once.

The wire is Chat Completions with pictures as data URLs: every server speaks it. What a server does not know about
structured output is found out by its refusals: `json_schema`, then `json_object`, then plain text. The SDK's own
retries are off, because every request has to stand in the ledger before it is sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import openai
from pydantic import BaseModel, ValidationError

from dreams.ledger import BudgetError, Ledger
from factory.errors import FactoryError, SpecError

Reason = Literal[
    "rate_limited", "server", "timeout", "connection", "truncated", "refused", "invalid", "rejected", "budget"
]
_FORMATS = ("json_schema", "json_object", "text")
_WAIT_S = 1.0
"""Before the second try; doubled for each further one."""
_MOST_WAIT_S = 60.0
_TOKENS_A_PICTURE = 1600
"""More than servers count for a picture of at most 512 pixels a side; it only bounds the budget's reservation."""
_CHARACTERS_A_TOKEN = 2


class AskError(FactoryError):
    """A question that got no usable answer: an error to be tried again, never a verdict.

    Attributes:
        reason: why; `rejected` and `budget` will not get better by asking the same again.
        requests: how many were sent for it.
    """

    def __init__(self, reason: Reason, message: str, *, requests: int) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.requests = requests


@dataclass(frozen=True, kw_only=True)
class EndpointSpec:
    """A model behind a server, and what may be asked of it.

    Attributes:
        base_url: up to and with "/v1".
        model: the server's name of it.
        api_key: local servers take any.
        max_output_tokens: of one answer; a truncated one is asked for again with twice as many, up to 4 times these.
        usd_per_mtok_in: price of a million tokens; likewise usd_per_mtok_out.
        usd_per_mtok_out: see usd_per_mtok_in.
        budget_usd: of everything in the ledger; None for no limit.
        requests_per_minute: 0 for no limit.
        concurrency: questions asked at the same time.
        timeout_s: until a request without an answer is given up.
        tries: requests for one question at most.
    """

    base_url: str
    model: str
    api_key: str = field(default="EMPTY", repr=False)
    max_output_tokens: int = 1024
    usd_per_mtok_in: float = 0.0
    usd_per_mtok_out: float = 0.0
    budget_usd: float | None = None
    requests_per_minute: float = 0.0
    concurrency: int = 4
    timeout_s: float = 120.0
    tries: int = 5

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise SpecError(f"the endpoint's base URL is {self.base_url!r}, expected http(s)://HOST/v1")
        if not self.model:
            raise SpecError(f"no model is named for {self.base_url}; its list is at {self.base_url}/models")
        for name in ("max_output_tokens", "concurrency", "tries", "timeout_s"):
            if getattr(self, name) <= 0:
                raise SpecError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("usd_per_mtok_in", "usd_per_mtok_out", "requests_per_minute"):
            if getattr(self, name) < 0:
                raise SpecError(f"{name} is {getattr(self, name)}, expected 0 or more")
        priced = self.usd_per_mtok_in or self.usd_per_mtok_out
        if self.budget_usd is not None and not priced:
            raise SpecError("a budget in USD says nothing without prices: give usd_per_mtok_in and usd_per_mtok_out")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its pictures, and the form of its answer.

    Attributes:
        kind: what it is for, with the version of its words: "judge/1".
        system: what the model is told to be.
        parts: text, and JPEG pictures as bytes, in the order they are shown.
        answer: fields are generated in their order, so evidence comes before what follows from it.
        seed: one question may be asked several times; servers that know seeds use it.
    """

    kind: str
    system: str
    parts: tuple[str | bytes, ...]
    answer: type[BaseModel]
    seed: int = 0

    def key(self, model: str) -> str:
        """Return a name of the question's whole content and of who is asked: 64 hex digits."""
        digest = hashlib.sha256()
        head = [model, self.kind, self.system, self.seed, self.answer.model_json_schema()]
        digest.update(json.dumps(head, sort_keys=True).encode())
        for part in self.parts:
            data = part if isinstance(part, bytes) else part.encode()
            digest.update(f"\0{type(part).__name__}{len(data)}\0".encode() + data)
        return digest.hexdigest()


class Endpoint:
    """A server that is being asked; thread-safe."""

    def __init__(
        self,
        spec: EndpointSpec,
        ledger: Ledger,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open it; nothing is sent yet."""
        self.spec = spec
        self.ledger, self.sleep, self.clock = ledger, sleep, clock
        self.client = openai.OpenAI(base_url=spec.base_url, api_key=spec.api_key, timeout=spec.timeout_s, max_retries=0)
        self.format = 0
        self.pace = _Pace(spec.requests_per_minute)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.spec.model

    def ask(self, question: Question) -> BaseModel:
        """Return the answer, from the ledger if it was paid for before.

        Raises:
            AskError: none came, or none that fits; what was paid is in the ledger.
        """
        key = question.key(self.spec.model)
        known = self.ledger.answer(key)
        if known is not None:
            return question.answer.model_validate_json(known)
        return _Conversation(self, question, key).run()

    def ask_all(self, questions: Iterable[Question]) -> Iterator[tuple[Question, BaseModel | AskError]]:
        """Yield every question with its answer, or with why there is none, in the order asked.

        Once a question failed for a reason that holds for all (a refused key, an exhausted budget) the others get the
        same reason without being sent.
        """
        hopeless: list[AskError] = []

        def one(question: Question) -> BaseModel | AskError:
            if hopeless:
                first = hopeless[0]
                return AskError(first.reason, str(first), requests=0)
            try:
                return self.ask(question)
            except AskError as error:
                if error.reason in ("rejected", "budget"):
                    hopeless.append(error)
                return error

        with ThreadPoolExecutor(self.spec.concurrency, thread_name_prefix="ask") as pool:
            for question, answer in [(q, pool.submit(one, q)) for q in questions]:
                yield question, answer.result()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


class _Conversation:
    """One question's requests until an answer fits."""

    def __init__(self, endpoint: Endpoint, question: Question, key: str) -> None:
        self._endpoint, self._question, self._key = endpoint, question, key
        self._spec = endpoint.spec
        self._max_tokens = endpoint.spec.max_output_tokens
        self._repair: tuple[dict[str, Any], ...] = ()
        self._requests = 0
        # Waits need no secret, only that callers who were refused together do not come back together.
        self._random = random.Random(key)  # noqa: S311

    def run(self) -> BaseModel:
        wait_s = _WAIT_S
        while True:
            try:
                return self._once()
            except AskError as error:
                if error.reason in ("rejected", "refused", "budget") or self._requests >= self._spec.tries:
                    raise
                if error.reason in ("rate_limited", "server", "timeout", "connection"):
                    asked = getattr(error.__cause__, "response", None)
                    after = _retry_after_s(asked.headers if asked is not None else {})
                    jittered = wait_s * (0.5 + self._random.random())
                    self._endpoint.sleep(min(max(jittered, after), _MOST_WAIT_S))
                    wait_s *= 2

    def _once(self) -> BaseModel:
        """Send one request and read what comes."""
        endpoint = self._endpoint
        form = _FORMATS[endpoint.format]
        request = self._messages(form)
        try:
            number = endpoint.ledger.begin(
                self._key,
                self._question.kind,
                most_usd=self._most_usd(request["messages"]),
                budget_usd=self._spec.budget_usd,
                now_s=endpoint.clock(),
            )
        except BudgetError as error:
            raise AskError("budget", str(error), requests=self._requests) from error
        endpoint.pace.wait(endpoint.sleep)
        self._requests += 1
        settle = endpoint.ledger.settle
        try:
            completion = endpoint.client.chat.completions.create(**request)
        except openai.APIStatusError as error:
            settle(number, str(error.status_code), usd=0.0)
            raise self._refusal(error, form) from error
        except openai.APITimeoutError as error:
            settle(number, "timeout")  # it may have been worked on, so it may be charged
            raise self._error("timeout", f"no answer within {self._spec.timeout_s:g} s") from error
        except openai.APIConnectionError as error:
            settle(number, "connection")
            raise self._error("connection", f"the connection failed: {error.__cause__ or error}") from error
        except (openai.OpenAIError, ValueError) as error:
            settle(number, "invalid")
            raise self._error("invalid", f"the server's reply is not a completion: {error}") from error
        return self._read(completion, number)

    def _read(self, completion: Any, number: int) -> BaseModel:
        """Settle the request and return its answer, or say what is wrong with it."""
        usage = getattr(completion, "usage", None)
        tokens_in = int(getattr(usage, "prompt_tokens", 0) or 0)
        tokens_out = int(getattr(usage, "completion_tokens", 0) or 0)
        spec = self._spec
        usd = (tokens_in * spec.usd_per_mtok_in + tokens_out * spec.usd_per_mtok_out) / 1e6 if usage else None
        paid: Mapping[str, Any] = {"usd": usd, "tokens_in": tokens_in, "tokens_out": tokens_out}
        settle = self._endpoint.ledger.settle
        choices = getattr(completion, "choices", None) or []
        if not choices:
            settle(number, "invalid", **paid)
            raise self._error("invalid", "the completion has no choices")
        message, finish = choices[0].message, choices[0].finish_reason
        if getattr(message, "refusal", None) or finish == "content_filter":
            settle(number, "refused", **paid)
            raise self._error("refused", f"the model refuses: {message.refusal or 'content filter'}")
        if finish == "length":
            settle(number, "truncated", **paid)
            given, self._max_tokens = self._max_tokens, min(2 * self._max_tokens, 4 * spec.max_output_tokens)
            raise self._error("truncated", f"the answer was cut off after {given} tokens")
        text = message.content or ""
        try:
            answer = self._question.answer.model_validate_json(_json_in(text))
        except ValidationError as error:
            settle(number, "invalid", **paid)
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in error.errors()[:5])
            self._repair = (
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"That does not fit: {wrong}. Answer again, in JSON that fits the schema."},
            )
            raise self._error("invalid", f"the answer does not fit: {wrong}") from error
        settle(number, "answered", **paid, answer=answer.model_dump_json())
        return answer

    def _refusal(self, error: openai.APIStatusError, form: str) -> AskError:
        """Say what a status other than 2xx means for the next try."""
        endpoint, said = self._endpoint, f"HTTP {error.status_code}: {error.message}"
        if error.status_code == 429 and getattr(error, "code", "") != "insufficient_quota":
            return self._error("rate_limited", said)
        if error.status_code in (408, 409) or error.status_code >= 500:
            return self._error("server", said)
        if error.status_code in (400, 422) and form != _FORMATS[-1]:
            # Older servers refuse structured output with one of these; a request wrong in itself fails as text too.
            endpoint.format = max(endpoint.format, _FORMATS.index(form) + 1)
            return self._error("invalid", said)
        return self._error("rejected", said)

    def _messages(self, form: str) -> dict[str, Any]:
        schema = self._question.answer.model_json_schema()
        system = self._question.system
        request: dict[str, Any] = {
            "model": self._spec.model,
            "max_completion_tokens": self._max_tokens,
            "seed": self._question.seed,
        }
        if form == "json_schema":
            name = self._question.answer.__name__.lstrip("_")
            request["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": schema, "strict": True},
            }
        else:
            system += f"\n\nAnswer with one JSON object that fits this schema:\n{json.dumps(schema)}"
        if form == "json_object":
            request["response_format"] = {"type": "json_object"}
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else _picture(part) for part in self._question.parts
        ]
        request["messages"] = [
            {"role": "system", "content": system},
            {"role": "user", "content": content},
            *self._repair,
        ]
        return request

    def _most_usd(self, messages: list[dict[str, Any]]) -> float:
        pictures = sum(isinstance(part, bytes) for part in self._question.parts)
        letters = len(json.dumps([m for m in messages if m["role"] != "user"]))
        letters += sum(len(part) for part in self._question.parts if isinstance(part, str))
        letters += len(json.dumps(self._question.answer.model_json_schema()))
        tokens_in = pictures * _TOKENS_A_PICTURE + letters / _CHARACTERS_A_TOKEN
        return (tokens_in * self._spec.usd_per_mtok_in + self._max_tokens * self._spec.usd_per_mtok_out) / 1e6

    def _error(self, reason: Reason, message: str) -> AskError:
        where = f"{self._spec.model} at {self._spec.base_url}"
        return AskError(reason, f"{where}: {message}", requests=self._requests)


class _Pace:
    """Lets so many through in a minute, evenly."""

    def __init__(self, per_minute: float) -> None:
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._next_s, self._lock = 0.0, threading.Lock()

    def wait(self, sleep: Callable[[float], None]) -> None:
        if not self._interval_s:
            return
        with self._lock:
            now = time.monotonic()
            wait_s = max(self._next_s - now, 0.0)
            self._next_s = max(self._next_s, now) + self._interval_s
        sleep(wait_s)


def _picture(jpeg: bytes) -> dict[str, Any]:
    url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _json_in(text: str) -> str:
    """Return the JSON object in a text: models wrap it in fences and words where nothing forbids them to."""
    first, last = text.find("{"), text.rfind("}")
    return text[first : last + 1] if 0 <= first < last else text


def _retry_after_s(headers: Mapping[str, str]) -> float:
    try:
        return float(headers.get("retry-after-ms", "")) / 1000.0
    except ValueError:
        pass
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:
        return 0.0  # a date, or nothing
