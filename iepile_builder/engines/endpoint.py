"""
Answers from a server that speaks the OpenAI chat API: vLLM, Ollama, llama.cpp, `transformers serve`, hosted ones.

Needs the `endpoint` extra. The key of the server is read from the environment and appears in no message.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from iepile_builder.answers.grammar import close_answer
from iepile_builder.answers.parse import load_answer
from iepile_builder.answers.repair import without_repeats
from iepile_builder.engines.base import Completion, Decisions, Request
from iepile_builder.engines.decisions import TopSteps, read_decisions
from iepile_builder.errors import InputError
from iepile_builder.io import SURROGATE, first_line, to_json


if TYPE_CHECKING:
    from httpx2 import Response
    from openai import APIStatusError

T = TypeVar("T")

logger = logging.getLogger(__name__)

# The servers have no common error code for a prompt that is too long; this is what their messages have in common.
_TOO_LONG = re.compile(r"context[ _](size|length|window)|maximum (model|context) len", re.IGNORECASE)

# 20 log-probabilities of each token take 2 kB.
_MAX_BYTES = 64 << 20

_NO_API = "no OpenAI-compatible API answers there: most addresses end in /v1"

# No model says this by itself, so a server that ignores the schema of an answer is detected.
_PROBE = {
    "type": "object",
    "properties": {"constrained": {"type": "string", "enum": ["by the schema"]}},
    "required": ["constrained"],
    "additionalProperties": False,
}


class EndpointEngine:
    """
    Answer through the chat API of a server, many requests at once.

    Answers follow the schema of their request where the server can make them (`response_format` with a JSON schema).
    Whether it can is asked once, with a small request; if not, answers are free and a warning says so.

    The server renders the prompt. Control tokens of the common chat templates inside a text are sent with a JSON
    escape (`\\u003c|im_end|>`), so that they open and close no turn; others reach the server as they are.

    Args:
        base_url (`str`):
            Address of the API, such as `http://127.0.0.1:8000/v1`.
        model (`str`, *optional*):
            The model's name there; by default the one that the server has, if there is only one.
        concurrency (`int`, *optional*, defaults to `8`):
            How many requests are on their way at once.
        timeout (`float`, *optional*, defaults to `300.0`):
            Seconds to wait for an answer; the whole of a request may take this long for each of its attempts.
        max_retries (`int`, *optional*, defaults to `5`):
            How often a request is sent again after a time-out, a broken connection, or a status of 429 or 500 and
            above: after the time that the server names in `Retry-After`, or after 0.5, 1, 2, 4, 8, 8, ... seconds.
        api_key_variable (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            The environment variable that holds the server's key, if it needs one.
        scores (`bool`, *optional*, defaults to `False`):
            Whether completions have `decisions`, from the log-probabilities of the 20 likeliest tokens that the server
            tells; a warning says so if it tells none. Where the server tells what the schema leaves, so do they.

    Raises:
        `InputError`: If the server cannot be reached, refuses the key or does not have the model.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        concurrency: int = 8,
        timeout: float = 300.0,
        max_retries: int = 5,
        api_key_variable: str = "OPENAI_API_KEY",
        scores: bool = False,
    ) -> None:
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
        except ImportError:
            raise InputError("openai is not installed: pip install 'iepile-builder[endpoint]'") from None

        self.base_url = base_url
        self.concurrency = concurrency
        self.window = 8 * concurrency  # requests to be given at once, so that the server is busy
        self.timeout = timeout
        self.api_key_variable = api_key_variable
        self.scores = scores
        self.structured: bool | None = None
        self._lock = Lock()
        self._warned: set[str] = set()
        self._key = os.environ.get(api_key_variable, "")
        # The client insists on a key; servers that need none ignore it.
        self._client = AsyncOpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            timeout=Timeout(timeout, connect=10.0),
            max_retries=max_retries,
            default_headers={"Accept-Encoding": "identity"},
            http_client=DefaultAsyncHttpxClient(event_hooks={"response": [_limit_size]}),
        )
        # A loop of its own: a request can be given up at any moment, and the caller may be in a loop of another kind.
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)
        self.model = model or ""
        with self._clear_errors():
            # Without retries: a mistyped address is no reason to wait.
            client = self._client.with_options(max_retries=0, timeout=30.0)
            listed = self._run(client.get("/models", cast_to=object), deadline=30.0)
        try:
            served = {str(each["id"]): each for each in listed["data"] or []}
        except (KeyError, TypeError):
            raise InputError(f"{base_url}: {_NO_API}") from None
        self._served = list(served)
        if model is None:
            if len(served) != 1:
                raise InputError(f"{base_url}: name the model to use, {self._models()}")
            self.model = self._served[0]
        # vLLM and llama.cpp tell their context, each in its way.
        details = served.get(self.model, {})
        meta = details.get("meta")
        context = details.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
        self.context: int | None = context if isinstance(context, int) else None

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        if self.structured is None and any(request.answer_schema is not None for request in requests):
            self._find_out_structured()
        with self._clear_errors():
            return self._run(self._answer_all(requests, max_new_tokens))

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        from openai import NotFoundError

        context = self.context  # of several threads, one may find out that nothing can be known
        if context is None:
            return None
        question = {"model": self.model, "messages": _escape(request), "max_tokens": max_new_tokens}
        with self._clear_errors():
            try:
                count = self._run(self._client.post("/messages/count_tokens", cast_to=object, body=question))
            except NotFoundError:
                self.context = None  # not asked again: the length of no prompt can be known
                return None
        tokens = count.get("input_tokens") if isinstance(count, dict) else None
        return context - max_new_tokens - tokens if isinstance(tokens, int) else None

    def _run(self, request: Coroutine[Any, Any, Any], deadline: float | None = None) -> Any:
        """Wait for the server; an interrupted wait gives the request up."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(request, deadline), self._loop)
        try:
            while not wait([future], timeout=1).done:
                pass  # an interrupt that the system gave to another thread is seen between two waits only
            return future.result()
        finally:
            future.cancel()

    async def _answer_all(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        free = asyncio.Semaphore(self.concurrency)

        async def answer(request: Request) -> Completion:
            async with free:
                return await self._answer(request, max_new_tokens)

        tasks = [asyncio.ensure_future(answer(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _answer(self, request: Request, max_new_tokens: int) -> Completion:
        from openai import BadRequestError, UnprocessableEntityError

        if self.structured and request.answer_schema is not None:
            try:
                completion = await self._ask(request, max_new_tokens, request.answer_schema)
                if completion.cut and load_answer(completion.text) is None:
                    return completion._replace(text=close_answer(request.answer_schema, completion.text))
                return completion
            except (BadRequestError, UnprocessableEntityError) as error:
                if _TOO_LONG.search(_message(error)):
                    raise
                self._warn(f"refuses the schema of an answer ({_message(error)}): such answers are not constrained")
        return await self._ask(request, max_new_tokens, None)

    async def _ask(self, request: Request, max_new_tokens: int, schema: dict[str, Any] | None) -> Completion:
        # Not `max_completion_tokens`: not all the servers know it.
        body: dict[str, Any] = {"model": self.model, "messages": _escape(request), "max_tokens": max_new_tokens}
        body["temperature"] = 0.0
        if self.scores:
            body |= {"logprobs": True, "top_logprobs": 20}
        if schema is not None:
            known = {key: value for key, value in schema.items() if not key.startswith("x-")}  # ours alone
            json_schema = {"name": "answer", "strict": True, "schema": known}
            body["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        # The time-out of the client is for each read: a server that sends a byte now and then would never end.
        request_sent = self._client.post("/chat/completions", cast_to=object, body=body)
        answer: Any = await asyncio.wait_for(request_sent, self.timeout * (self._client.max_retries + 1))
        try:
            choice, named = answer["choices"][0], answer.get("model") or ""
            text, cut = choice["message"]["content"] or "", choice.get("finish_reason") == "length"
            # llama.cpp answers with the model that it has, whatever is asked for; others add a version to the name.
            other = self.model not in self._served and not named.startswith(self.model)
        except (AttributeError, IndexError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise InputError(f"{self.base_url}: the server's answer is none of the chat API: {str(answer)[:80]!r}")
        if len(text) > max(10_000, 100 * max_new_tokens):  # no tokens are that long
            said = f"{len(text):,} characters for max_tokens of {max_new_tokens}"
            raise InputError(f"{self.base_url}: the server answers with {said}")
        if other:
            raise InputError(f"{self.base_url}: the server has no model {self.model!r}: name {self._models()}")
        # JSON can write half a surrogate pair, which no file of answers can hold
        said = SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        distinct = said if schema is None else without_repeats(said)
        steps = _read_steps(choice, text) if self.scores else None
        if self.scores and steps is None and said == text:
            self._warn("tells no log-probabilities: scores are not available", "scores")
        decisions = None if steps is None else read_decisions(steps, request.answer_schema)
        return Completion(distinct, cut, decisions if distinct == said else _without_repeats(decisions, said))

    def _find_out_structured(self) -> None:
        from openai import APIStatusError

        probe = Request([{"role": "user", "content": "Say hello."}])
        with self._clear_errors():
            try:
                text = self._run(self._ask(probe, 64, _PROBE)).text
                self.structured = json.loads(text) == {"constrained": "by the schema"}
            except json.JSONDecodeError:
                self.structured = False
            except APIStatusError as error:
                if error.status_code not in (400, 422, 500, 501):
                    raise
                self._run(self._ask(probe, 1, None))  # Or is it something else that the server does not take?
                self.structured = False
        if not self.structured:
            self._warn("does not take a JSON schema for its answers: they are not constrained")

    def _warn(self, message: str, kind: str = "schema") -> None:
        """Once: what is wrong with one request is wrong with the others."""
        with self._lock:
            if kind not in self._warned:
                logger.warning("%s", self._hidden(f"{self.base_url} {message}"))
            self._warned.add(kind)

    def _models(self) -> str:
        return f"one of: {', '.join(self._served)}" if self._served else "the server lists none"

    def _hidden(self, message: str) -> str:
        """A message without the key, which some servers repeat in theirs."""
        return message.replace(self._key, "***") if self._key else message

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turns what the client raises into one line that names the cure."""
        import openai

        try:
            yield
        except InputError:
            raise
        except (openai.APITimeoutError, asyncio.TimeoutError):
            message = (
                f"no answer in time: raise the time-out of {self.timeout:g} seconds, or send fewer requests at once"
            )
        except openai.APIConnectionError as error:
            reason = first_line(error.__cause__ or error)
            message = f"no server can be reached there ({reason}): is it running, and is this its address?"
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            message = (
                f"the server refuses the key in {self.api_key_variable}"
                if self._key
                else f"the server wants a key: set the environment variable {self.api_key_variable}"
            )
        except openai.RateLimitError as error:
            message = f"still too many requests after all retries ({_message(error)}): send fewer at once"
        except openai.APIStatusError as error:
            message = self._explain(error)
        except openai.OpenAIError as error:
            message = f"not an answer of the OpenAI chat API ({first_line(error)})"
        except (ValueError, RecursionError) as error:
            message = f"the server's answer is no JSON ({first_line(error)})"
        else:
            return
        raise InputError(self._hidden(f"{self.base_url}: {message}")) from None

    def _explain(self, error: APIStatusError) -> str:
        reason = _message(error)
        if _TOO_LONG.search(reason):
            return (
                f"a prompt does not fit into the context of the model ({reason}): ask for fewer labels or shorter "
                "texts at once, or start the server with a larger context"
            )
        if not error.request.url.path.endswith("/chat/completions"):
            return f"{_NO_API} ({reason})"
        if self.model not in self._served:
            return f"the server does not take the model {self.model!r} ({reason}): name {self._models()}"
        return f"the server cannot answer ({reason})"


async def _limit_size(response: Response) -> None:
    """Let no answer fill the memory: neither one that never ends nor one that is small only while compressed."""
    from httpx2 import AsyncByteStream
    from openai import OpenAIError

    stream: Any = response.stream

    class Limited(AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for part in stream:
                size += len(part)
                if size > _MAX_BYTES:
                    raise OpenAIError(f"more than {_MAX_BYTES >> 20} MB")
                yield part

        async def aclose(self) -> None:
            await stream.aclose()

    if "Content-Encoding" in response.headers:
        raise OpenAIError("compressed, though the request did not allow that")
    response.stream = Limited()


# The control tokens of the common chat templates, and the turns that others write in plain characters.
_CONTROL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|</?think>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad)>|<reserved_\d+>"
)


def _escape(request: Request) -> list[dict[str, str]]:
    """Write the first character of a control token as a JSON escape; parsed, the instruction is the same."""

    def escape(found: re.Match[str]) -> str:
        return f"\\u{ord(found[0][0]):04x}{found[0][1:]}"

    return [{**message, "content": _CONTROL.sub(escape, message["content"])} for message in request.messages]


def _read_steps(choice: dict[str, Any], text: str) -> TopSteps | None:
    """Read the log-probabilities of an answer; `None` if they are not those of its text."""
    texts: list[bytes] = []
    tops = []
    try:
        for step in choice["logprobs"]["content"]:
            known = {_token_bytes(each): float(each["logprob"]) for each in [*(step.get("top_logprobs") or ()), step]}
            if not all(-1e6 < log_prob < 1 for log_prob in known.values()):  # NaN is not
                break
            texts.append(_token_bytes(step))
            tops.append(known)
            if b"".join(texts) == text.encode():  # an end token may follow
                return TopSteps(texts, tops)
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def _without_repeats(decisions: Decisions | None, text: str) -> Decisions | None:
    """Leave out the decisions of items that their list has already, as [`without_repeats`] leaves out the items."""
    value, kept = load_answer(text) or {}, {}
    for label, pairs in (decisions or {}).items():
        items = [without_repeats(to_json({label: [item]})) for item in value[label]]
        first = {item: index for index, item in reversed([*enumerate(items)])}
        kept[label] = [pairs[index] for index in sorted(first.values())] + pairs[-1:]
    return None if decisions is None else kept


def _token_bytes(token: dict[str, Any]) -> bytes:
    said = token.get("bytes")
    return str(token["token"]).encode() if said is None else bytes(list(said))  # not of a number


def _message(error: APIStatusError) -> str:
    """What a server says is wrong, wherever in its answer it says so."""
    body = error.body
    if isinstance(body, dict) and (reason := body.get("message") or body.get("detail") or body.get("error")):
        return f"{error.status_code}: {first_line(ValueError(reason))}"
    return first_line(error)
