"""
A schema batch to what its answer must look like: a JSON schema for any engine, and a grammar that holds a model to it
exactly, down to the separators and escapes that the training format has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from iepile_builder.answers.repair import repair_json
from iepile_builder.errors import InputError
from iepile_builder.io import to_json
from iepile_builder.tasks import TASKS
from iepile_builder.tasks.facts import NOTHING


if TYPE_CHECKING:
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase

MENTION = {"$ref": "#/$defs/mention"}

# What Python's JSON encoder writes inside a string: characters as they are, and no escape but these.
_CHARACTERS = r'/([^"\\\x00-\x1F]|\\["\\bfnrt]|\\u00(0[0-7bef]|1[0-9a-f]))+/'


def answer_schema(task: str, items: Sequence[Any], text: str | None = None) -> dict[str, Any]:
    """
    Makes the JSON schema of the answer to a schema batch.

    Args:
        task (`str`):
            One of the seven tasks.
        items (`Sequence[Any]`):
            The schema items, as they stand in the instruction.
        text (`str`, *optional*):
            The text, if the answer's strings are to be substrings of it. JSON schema has no word for that: it stands
            under `x-text`, which [`Grammars`] knows and others ignore.

    Returns:
        `dict[str, Any]`: The JSON schema. Keys come in the order of its `properties`.

    Raises:
        `InputError`: If the items are not the task's.
    """
    try:
        schema = TASKS[task].read_items(items)
        keys = {label: TASKS[task].answer_key(label) for label in TASKS[task].labels(schema)}
    except (KeyError, TypeError):
        raise InputError(f"not schema items of {task}: {str(items)[:80]}") from None

    answers: dict[str, Any]
    if task in ("NER", "EET"):
        answers = {key: _array(MENTION) for key in keys.values()}
    elif task in ("RE", "SPO"):
        answers = {key: _array(_object({"subject": MENTION, "object": MENTION})) for key in keys.values()}
    elif task == "KG":
        answers = {}
        for label, attributes in schema.type_roles.items():
            found = {**_object({attribute: _value([MENTION]) for attribute in attributes}), "minProperties": 1}
            answers[label] = {"type": "object", "additionalProperties": {**found, "required": []}}
    else:
        nothing = {"const": NOTHING}
        answers = {}
        for item in items:
            roles = {role: _value([nothing, MENTION]) for role in item["arguments"]}
            trigger = {"enum": item["trigger"]} if task == "EEA" else {"anyOf": [nothing, MENTION]}
            arguments = {"anyOf": [_object({}), _object(roles)]} if roles else _object({})
            answers[item["event_type"]] = _array(_object({"trigger": trigger, "arguments": arguments}))
    return {
        **_object(answers),
        "$defs": {"mention": {"type": "string", "minLength": 1}},
        **({} if text is None else {"x-text": text}),
    }


def _array(items: Mapping[str, Any], at_least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": at_least}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _value(single: list[Any]) -> dict[str, Any]:
    return {"anyOf": [*single, _array(MENTION, at_least=2)]}


def lark_grammar(schema: Mapping[str, Any], start: str = "") -> str:
    """
    Makes the grammar of the answers that satisfy a schema of [`answer_schema`], written as the training format is.

    Args:
        schema (`Mapping[str, Any]`):
            The JSON schema.
        start (`str`, *optional*, defaults to `""`):
            What may stand before the answer.

    Returns:
        `str`: The grammar, in the dialect of Lark that `llguidance` reads.
    """
    rules: dict[str, str] = {}  # body to name: alike parts of a schema are one rule

    def rule(body: str) -> str:
        return rules.setdefault(body, f"r{len(rules)}")

    def expression(node: Mapping[str, Any]) -> str:
        if "$ref" in node:
            return "MENTION"
        if "const" in node:
            return json.dumps(to_json(node["const"]))
        if "enum" in node:
            return rule(" | ".join(json.dumps(to_json(value)) for value in node["enum"]))
        if "anyOf" in node:
            return rule(" | ".join(map(expression, node["anyOf"])))
        if node["type"] == "array":
            item = expression(node["items"])
            more = f'", " {item}'
            if node["minItems"] == 2:
                return rule(f'"[" {item} {more} ({more})* "]"')
            return rule(f'"[" "]" | "[" {item} ({more})* "]"')
        if "properties" not in node:  # from any mention to the same value
            entry = f'MENTION ": " {expression(node["additionalProperties"])}'
            return rule(f'"{{" "}}" | "{{" {entry} (", " {entry})* "}}"')
        entries = [
            f"{json.dumps(to_json(key) + ': ')} {expression(value)}" for key, value in node["properties"].items()
        ]
        if node["required"] or not entries:
            return rule(" ".join(['"{"', ' ", " '.join(entries), '"}"']))
        # Any of them but not none, in order: what may follow a first one is a rule of its own.
        following = ""
        firsts = []
        for entry in reversed(entries):
            firsts.append(f"{entry} {following}")
            following = rule(f'(", " {entry})? {following}')
        return rule(f'"{{" ({" | ".join(reversed(firsts))}) "}}"')

    answer = expression(schema)
    characters = _CHARACTERS
    if (text := schema.get("x-text")) is not None:
        # Whole characters as they are written in JSON, so that none is cut inside its escape
        chunks = json.dumps([to_json(character)[1:-1] for character in text])
        characters = f'SUBSTRING & /(?s:.+)/\nSUBSTRING: %regex {{"substring_chunks": {chunks}}}'
    return "\n".join(
        [
            f"start: {start}{answer}",
            *(f"{name}: {body}" for body, name in rules.items()),
            'MENTION: "\\"" CHARACTERS "\\""',
            f"CHARACTERS: {characters}",
        ]
    )


class Grammars:
    """
    Makes matchers, which tell the tokens that may come next, and keeps compiled grammars.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A fast tokenizer.
        vocab_size (`int`):
            How many tokens the model has, which may be more than the tokenizer's.
        end_tokens (`Iterable[int]`):
            The tokens that end an answer.
        size (`int`, *optional*, defaults to `256`):
            How many compiled grammars are kept.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end_tokens: Iterable[int], size: int = 256
    ) -> None:
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=sorted(end_tokens))  # type: ignore[arg-type]
        # SentencePiece has a token for "{" at the start of a word, which decodes to "{" at the start of an answer.
        brace = tokenizer("{", add_special_tokens=False)["input_ids"]
        self._start = '" "? ' if self._tokenizer.decode_str(brace) == " {" else ""
        self._compiled = lru_cache(maxsize=size)(self._compile)

    def matcher(self, schema: Mapping[str, Any]) -> LLMatcher:
        """A matcher at the start of an answer that satisfies a schema of [`answer_schema`]."""
        return self._compiled(lark_grammar(schema, self._start)).deep_copy()

    def close(self, schema: Mapping[str, Any], text: str) -> str:
        """
        Closes an answer that was cut: without its last item, which may be unfinished, and with nothing for the labels
        that it has not reached.
        """
        found = repair_json(text) or {}
        nothing: dict[str, Any] = {
            key: {} if value["type"] == "object" else [] for key, value in schema["properties"].items()
        }
        if found and (last := found[list(found)[-1]]):
            last.popitem() if isinstance(last, dict) else last.pop()
        closed = to_json({key: found.get(key, value) for key, value in nothing.items()})
        matcher = self.matcher(schema)
        tokens = self._tokenizer.tokenize_str(closed)
        valid = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped()
        return closed if valid else to_json(nothing)

    def _compile(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        # The defaults are too small for the substrings of a text of more than some thousand characters.
        limits = LLParserLimits(initial_lexer_fuel=10**9, step_lexer_fuel=10**9, verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
        if matcher.is_error():
            raise InputError(f"the answer's grammar cannot be used: {matcher.get_error().splitlines()[0]}")
        return matcher
