"""Keeps control tokens that clients write apart from those of the chat template.

A chat is rendered to one text, and there `<|im_end|>` is the template's or a client's. So every character of a
client's text that a control token could begin with gets a mark behind it before the template is rendered. Of what
is found afterwards, a control token with a mark inside is text; only those that the template wrote are tokens.
The marks do not touch the edges of texts, and templates trim, join, quote and split these as ever.

Control tokens are the tokenizer's special tokens, and other added tokens that the template itself writes (`<think>`,
`<｜User｜>`). The latter stay tokens in an assistant's messages: they are its own language. A token of one character
has no inside and is no control token here. `/v1/completions` has no template, and takes them as tokens anywhere.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json
from tokenizers import AddedToken, Tokenizer

from deployments.http_errors import invalid

NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Unicode's code points for a process's own use: a mark is one that the client's texts do not have."""
_NEVER = "(?!)"


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A rendered chat without its marks, and where they were: `text[i - 1]` is a client's for each mark at i."""

    text: str
    marks: tuple[int, ...] = ()

    def is_marked(self, start: int, end: int) -> bool:
        """Whether a mark is inside, not at an edge."""
        at = bisect_right(self.marks, start)
        return at < len(self.marks) and self.marks[at] < end


class ControlTokens:
    """Built once for a tokenizer and a template."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        added = {i: token for i, token in tokenizer.get_added_tokens_decoder().items() if _has_inside(token)}
        written = {i: t for i, t in added.items() if not t.special and t.content.strip() and t.content in template}
        control = {i: token for i, token in added.items() if token.special} | written
        texts = [token.content for token in control.values()]
        first = f"[{re.escape(''.join(sorted({text[0] for text in texts})))}]" if texts else _NEVER
        self._first = re.compile(first)
        own = _any_of([token.content for token in written.values()])
        self._first_in_answers = re.compile(f"(?!{own}){first}")
        self._any = re.compile(_any_of(texts))
        self._tails: dict[str, set[str]] = {}
        """Ends of control tokens, by the sign that they begin with."""
        for tail in (text[i:] for text in texts for i in range(1, len(text)) if _is_sign(text[i])):
            self._tails.setdefault(tail[0], set()).add(tail)
        self._is_escaping = "ensure_ascii" in template
        self._stand_in = {token.content: f"{NONCHARACTERS[0]}{secrets.token_hex(16)}:{i}:" for i, token in control.items()}
        """Unguessable texts that stand for the template's control tokens when the rest is encoded as text."""
        self._twin, self._id_of = _twin(tokenizer, control, self._stand_in)

    def mark_for(self, values: Any) -> str:
        """A mark that is in none of the texts in `values`."""
        texts = to_json(values).decode()
        for mark in NONCHARACTERS:
            if mark not in texts and _escaped(mark) not in texts:
                return mark
        raise invalid("messages", "messages: hold every noncharacter from U+FDD0 to U+FDEF")

    def marked(self, value: Any, mark: str, *, is_answer: bool = False) -> Any:
        """A client's text, or all texts and names in a list or an object, with the marks that they need.
        `is_answer`: the assistant's."""
        if isinstance(value, str):
            pattern = self._first_in_answers if is_answer else self._first
            inside = pattern.sub(rf"\g<0>{mark}", value)
            return mark + inside if self._may_end_a_token(value) else inside
        if isinstance(value, Mapping):
            return {
                self.marked(name, mark, is_answer=is_answer): self.marked(item, mark, is_answer=is_answer) for name, item in value.items()
            }
        if isinstance(value, Sequence):
            return [self.marked(item, mark, is_answer=is_answer) for item in value]
        return value

    def unmarked(self, rendered: str, mark: str) -> MarkedText:
        if self._is_escaping:
            rendered = rendered.replace(_escaped(mark), mark)
        *before, last = rendered.split(mark)
        marks: list[int] = []
        length = 0
        for piece in before:
            length += len(piece)
            marks.append(length)
        return MarkedText("".join((*before, last)), tuple(marks))

    def token_ids(self, chat: MarkedText) -> tuple[int, ...]:
        """What the tokenizer makes of the text, with every marked control token as text."""
        if not chat.marks:
            return tuple(self._tokenizer.encode(chat.text, add_special_tokens=False).ids)
        ids = self._twin.encode(self._with_stand_ins(chat), add_special_tokens=False).ids
        return tuple(self._id_of.get(i, i) for i in ids)

    def _with_stand_ins(self, chat: MarkedText) -> str:
        pieces: list[str] = []
        taken = position = 0
        while found := self._any.search(chat.text, position):
            position = found.start() + 1
            if not chat.is_marked(found.start(), found.end()):
                pieces += [chat.text[taken : found.start()], self._stand_in[found.group()]]
                taken = position = found.end()
        return "".join((*pieces, chat.text[taken:]))

    def _may_end_a_token(self, text: str) -> bool:
        """Whether it could go on with a control token that the template's own text began, as in `<{{ name }}>`.
        Words alone are not taken for that: templates compare them."""
        return any(text.startswith(tail) or tail.startswith(text) for tail in self._tails.get(text[:1], ()))


def _has_inside(token: AddedToken) -> bool:
    """A token that stands for a whole word only is text like others."""
    return len(token.content) > 1 and not token.single_word


def _is_sign(character: str) -> bool:
    return not character.isalnum() and not character.isspace()


def _any_of(texts: Sequence[str]) -> str:
    """The longest at a place first, as tokenizers find added tokens."""
    return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or _NEVER


def _escaped(mark: str) -> str:
    return json.dumps(mark)[1:-1]


def _twin(tokenizer: Tokenizer, control: Mapping[int, AddedToken], stand_in: Mapping[str, str]) -> tuple[Tokenizer, dict[int, int]]:
    """The tokenizer with control tokens as text, and a token for each stand-in; with the id that each stands for."""
    content = json.loads(tokenizer.to_str())
    for entry in content["added_tokens"]:
        entry["special"] = entry["id"] in control
    twin = Tokenizer.from_str(json.dumps(content))
    twin.encode_special_tokens = True
    for token in control.values():
        twin.add_tokens(
            [
                AddedToken(
                    stand_in[token.content],
                    lstrip=token.lstrip,
                    rstrip=token.rstrip,
                    normalized=token.normalized,
                    special=False,
                )
            ]
        )
    found = {i: twin.token_to_id(stand_in[token.content]) for i, token in control.items()}
    return twin, {stood: i for i, stood in found.items() if stood is not None}
