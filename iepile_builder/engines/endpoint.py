"""
Answers from a server that speaks the OpenAI chat API: vLLM, Ollama, llama.cpp, `transformers serve`, hosted ones.

Needs the `endpoint` extra. The key of the server is read from the environment and appears in no message.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from iepile_builder.engines.base import Completion, Request
from iepile_builder.errors import InputError
from iepile_builder.io import first_line


if TYPE_CHECKING:
    from openai import APIStatusError

logger = logging.getLogger(__name__)

# The servers have no common error code for a prompt that is too long; this is what their messages have in common.
_TOO_LONG = re.compile(r"context[ _](size|length|window)|maximum (model|context) len", re.IGNORECASE)

# An answer that no model gives unless it is made to: so a server that ignores the schema of an answer is found out.
_PROBE = {
    "type": "object",
    "properties": {"constrained": {"type": "string", "enum": ["by the schema"]}},
    "required": ["constrained"],
    "additionalProperties": False,
}


class EndpointEngine:
    """
    Answers through the chat API of a server, many requests at once.

    Answers follow the schema of their request where the server can make them (`response_format` with a JSON schema).
    Whether it can is asked once, with a small request; if not, answers are free and a warning says so.

    Args:
        base_url (`str`):
            Address of the API, such as `http://127.0.0.1:8000/v1`.
        model (`str`, *optional*):
            The model's name there; by default the one that the server has, if there is only one.
        concurrency (`int`, *optional*, defaults to `8`):
            How many requests are on their way at once.
        timeout (`float`, *optional*, defaults to `300.0`):
            Seconds to wait for an answer.
        max_retries (`int`, *optional*, defaults to `5`):
            How often a request is sent again after a time-out, a broken connection, or a status of 429 or 500 and
            above: after the time that the server names in `Retry-After`, or after 0.5, 1, 2, 4, 8, 8, ... seconds.
        api_key_variable (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            The environment variable that holds the server's key, if it needs one.

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
    ) -> None:
        try:
            from openai import OpenAI, Timeout
        except ImportError:
            raise InputError("openai is not installed: pip install 'iepile-builder[endpoint]'") from None

        self.base_url = base_url
        self.concurrency = concurrency
        self.timeout = timeout
        self.api_key_variable = api_key_variable
        self.structured: bool | None = None
        self._lock = Lock()
        self._warned = False
        self._key = os.environ.get(api_key_variable, "")
        # The client insists on a key; servers that need none ignore it.
        self._client = OpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            timeout=Timeout(timeout, connect=10.0),
            max_retries=max_retries,
        )
        self.model = model or ""
        with self._clear_errors():
            # Without retries: who mistyped the address should not wait for them.
            listed: Any = self._client.with_options(max_retries=0, timeout=30.0).get("/models", cast_to=object)
        if not isinstance(listed, dict) or "data" not in listed:
            raise InputError(f"{base_url}: no OpenAI-compatible API answers there: most addresses end in /v1")
        served = {each["id"]: each for each in listed["data"] or []}
        self._served = list(served)
        if model is None:
            if len(served) != 1:
                raise InputError(f"{base_url}: name the model to use, {self._models()}")
            self.model = self._served[0]
        # vLLM and llama.cpp tell their context, each in its way.
        details = served.get(self.model, {})
        self.context: int | None = details.get("max_model_len") or (details.get("meta") or {}).get("n_ctx")

    def generate(self, requests: Sequence[Request], max_new_tokens: int) -> list[Completion]:
        if self.structured is None and any(request.answer_schema is not None for request in requests):
            self._find_out_structured()
        with ThreadPoolExecutor(self.concurrency) as pool, self._clear_errors():
            answers = [pool.submit(self._answer, request, max_new_tokens) for request in requests]
            try:
                return [answer.result() for answer in answers]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def context_left(self, request: Request, max_new_tokens: int) -> int | None:
        from openai import NotFoundError

        if self.context is None:
            return None
        question = {"model": self.model, "messages": request.messages, "max_tokens": max_new_tokens}
        with self._clear_errors():
            try:
                count: Any = self._client.post("/messages/count_tokens", cast_to=object, body=question)
            except NotFoundError:
                return None
        return self.context - max_new_tokens - count["input_tokens"]

    def _answer(self, request: Request, max_new_tokens: int) -> Completion:
        from openai import BadRequestError, UnprocessableEntityError

        if self.structured and request.answer_schema is not None:
            try:
                return self._ask(request, max_new_tokens, request.answer_schema)
            except (BadRequestError, UnprocessableEntityError) as error:
                if _TOO_LONG.search(_message(error)):
                    raise
                self._warn(f"refuses the schema of an answer ({_message(error)}): such answers are not constrained")
        return self._ask(request, max_new_tokens, None)

    def _ask(self, request: Request, max_new_tokens: int, schema: dict[str, Any] | None) -> Completion:
        options: dict[str, Any] = {}
        if schema is not None:
            known = {key: value for key, value in schema.items() if not key.startswith("x-")}  # ours alone
            json_schema = {"name": "answer", "strict": True, "schema": known}
            options["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        messages: Any = request.messages
        # Not `max_completion_tokens`: not all the servers know it.
        answer = self._client.chat.completions.create(
            model=self.model, messages=messages, max_tokens=max_new_tokens, temperature=0.0, **options
        )
        # llama.cpp answers with the model that it has, whatever is asked for; others add a version to the name.
        if self.model not in self._served and not answer.model.startswith(self.model):
            raise InputError(f"{self.base_url}: the server has no model {self.model!r}: name {self._models()}")
        choice = answer.choices[0]
        return Completion(choice.message.content or "", cut=choice.finish_reason == "length")

    def _find_out_structured(self) -> None:
        from openai import APIStatusError

        probe = Request([{"role": "user", "content": "Say hello."}])
        with self._clear_errors():
            try:
                text = self._ask(probe, 64, _PROBE).text
                self.structured = json.loads(text) == {"constrained": "by the schema"}
            except ValueError:
                self.structured = False
            except APIStatusError as error:
                if error.status_code not in (400, 422, 500, 501):
                    raise
                self._ask(probe, 1, None)  # Or is it something else that the server does not take?
                self.structured = False
        if not self.structured:
            self._warn("does not take a JSON schema for its answers: they are not constrained")

    def _warn(self, message: str) -> None:
        """Once: what is wrong with one request is wrong with the others."""
        with self._lock:
            if not self._warned:
                logger.warning("%s", self._hidden(f"{self.base_url} {message}"))
            self._warned = True

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
        except openai.APITimeoutError:
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
            return f"no OpenAI-compatible API answers there ({reason}): most addresses end in /v1"
        if self.model not in self._served:
            return f"the server does not take the model {self.model!r} ({reason}): name {self._models()}"
        return f"the server cannot answer ({reason})"


def _message(error: APIStatusError) -> str:
    """What a server says is wrong, wherever in its answer it says so."""
    body = error.body
    if isinstance(body, dict) and (reason := body.get("message") or body.get("detail") or body.get("error")):
        return f"{error.status_code}: {first_line(ValueError(reason))}"
    return first_line(error)
