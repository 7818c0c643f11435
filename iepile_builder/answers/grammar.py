"""
The JSON schema of an answer to a grammar that holds a model to it exactly, down to the separators and escapes that the
training format has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from iepile_builder.answers.decisions import mark_answer
from iepile_builder.answers.parse import load_answer
from iepile_builder.answers.repair import without_repeats
from iepile_builder.errors import InputError
from iepile_builder.io import to_json


if TYPE_CHECKING:
    from llguidance import LLMatcher
    from transformers import PreTrainedTokenizerBase

# What Python's JSON encoder writes inside a string: characters as they are, and no escape but these.
_CHARACTERS = r'/([^"\\\x00-\x1F]|\\["\\bfnrt]|\\u00(0[0-7bef]|1[0-9a-f]))+/'

# Strings of the text start and end between these: letters of Latin, Greek or Cyrillic script, digits, or one other
# character. Other scripts may write no spaces (Chinese, Thai), or attach particles to a mention (Korean, Hebrew).
_WORD = re.compile(r"\d+|(?:[^\W\d_](?<![\u0530-\u1dff\u2000-\U0010ffff]))+|.", re.DOTALL)

# A label may hold a control token of a model, such as "<|im_end|>". `llguidance` tokenizes what a grammar forces, and
# then refuses this token, which is no text. With an escape in JSON as another way to write it, nothing is forced.
_CONTROL = re.compile(r"<(?=[^<>\s]*>)")

# What the structure of JSON is read from; the last string may have no quote at its end.
_LEXEME = re.compile(r'"(?:[^"\\]|\\.)*(?P<quote>"?)|[][{}:]', re.DOTALL)


def lark_grammar(schema: Mapping[str, Any], start: str = "") -> str:
    """
    Make the grammar, in the dialect of Lark that `llguidance` reads, of the answers that satisfy a schema of
    `Task.answer_schema`, written as the training format is. `start` is what may precede the answer.
    """
    rules: dict[str, str] = {}  # body to name: alike parts of a schema are one rule

    def rule(body: str) -> str:
        return rules.setdefault(body, f"r{len(rules)}")

    def literal(value: Any, end: str = "") -> str:
        written = to_json(value) + end
        escaped = _CONTROL.sub(r"\\u003c", written)
        return json.dumps(written) if escaped == written else f"({json.dumps(written)} | {json.dumps(escaped)})"

    def expression(node: Mapping[str, Any]) -> str:
        if "$ref" in node:
            return "MENTION"
        if "const" in node:
            return literal(node["const"])
        if "enum" in node:
            return rule(" | ".join(map(literal, node["enum"])))
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
        entries = [f"{literal(key, ': ')} {expression(value)}" for key, value in node["properties"].items()]
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
        # As they are written in JSON, so that no escape is cut; no half of a surrogate pair, which UTF-8 cannot write
        words = [to_json(word)[1:-1] for word in _WORD.findall(text) if not "\ud800" <= word <= "\udfff"]
        characters = f'SUBSTRING & /(?s:.+)/\nSUBSTRING: %regex {{"substring_chunks": {json.dumps(words)}}}'
    return "\n".join(
        [
            f"start: {start}{answer}",
            *(f"{name}: {body}" for body, name in rules.items()),
            'MENTION: "\\"" CHARACTERS "\\""',
            f"CHARACTERS: {characters}",
        ]
    )


def _nothing(schema: Mapping[str, Any]) -> Any:
    """Give the value that says that nothing was found: no item, no key, or the first of several words."""
    if "enum" in schema:
        return schema["enum"][0]
    return {} if schema["type"] == "object" else []


def _drop_unfinished(text: str) -> str:
    """Cut an answer behind its last finished item, or the value of a label that is no list, and close it there."""
    end, brackets, before = 0, "", ""  # the brackets that close what is open, the innermost first
    closing = ""  # those at `end`
    for found in _LEXEME.finditer(text):
        lexeme = found[0]
        if lexeme in "[{":
            brackets = ("]" if lexeme == "[" else "}") + brackets
        elif lexeme in "]}":
            brackets = brackets[1:]
        elif lexeme != ":" and not found["quote"]:
            break
        is_key = lexeme[0] == '"' and before != ":" and brackets.startswith("}")
        if len(brackets) <= 2 and lexeme not in "[{:" and not is_key:
            end, closing = found.end(), brackets
        before = lexeme
    return text[text.find("{") : end] + closing


def close_answer(schema: Mapping[str, Any], text: str) -> str:
    """
    Close an answer that was cut: without the item that it had not finished, and with nothing for the labels that it
    has not reached. Items that their list has already are left out.
    """
    found = load_answer(without_repeats(_drop_unfinished(text))) or {}
    nothing: dict[str, Any] = {key: _nothing(value) for key, value in schema["properties"].items()}
    closed = to_json({key: found.get(key, value) for key, value in nothing.items()})
    return closed if mark_answer(schema, closed) is not None else to_json(nothing)


class Grammars:
    """
    Make matchers, which tell the tokens that may come next, and keep the last `size` compiled grammars.

    The tokenizer is a fast one. `vocab_size` is the number of tokens of the model, which may have more than the
    tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, end_tokens: Iterable[int], size: int = 256
    ) -> None:
        from llguidance.hf import from_tokenizer

        self.tokenizer = from_tokenizer(tokenizer, n_vocab=vocab_size, eos_token=sorted(end_tokens))  # type: ignore[arg-type]
        # SentencePiece has a token for "{" at the start of a word, which decodes to "{" at the start of an answer.
        brace = tokenizer("{", add_special_tokens=False)["input_ids"]
        self._start = '" "? ' if self.tokenizer.decode_str(brace) == " {" else ""
        self._compiled = lru_cache(maxsize=size)(self._compile)

    def matcher(self, schema: Mapping[str, Any]) -> LLMatcher:
        """Make a matcher at the start of an answer that satisfies a schema of `Task.answer_schema`."""
        return self._compiled(lark_grammar(schema, self._start)).deep_copy()

    def nothing(self, schema: Mapping[str, Any]) -> list[int]:
        """Give the tokens of the answer in which all labels are empty."""
        text = to_json({key: _nothing(value) for key, value in schema["properties"].items()})
        tokens: list[int] = self.tokenizer.tokenize_str(text)
        return tokens

    def close(self, schema: Mapping[str, Any], text: str) -> str:
        """Close a cut answer, as [`close_answer`] does; nothing for all labels if the grammar refuses it then."""
        closed = close_answer(schema, text)
        matcher, tokens = self.matcher(schema), self.tokenizer.tokenize_str(closed)
        valid = matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_stopped()
        return closed if valid else close_answer(schema, "")

    def _compile(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        # The defaults are too small for the substrings of a text of more than some thousand characters.
        limits = LLParserLimits(initial_lexer_fuel=10**9, step_lexer_fuel=10**9, verbose_errors=False)
        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0, limits=limits)
        if matcher.is_error():
            raise InputError(f"the answer's grammar cannot be used: {matcher.get_error().splitlines()[0]}")
        return matcher
