"""Where a template rewrites what was shown before, so that a prompt no longer extends the last one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from atropos_agent.errors import RenderError
from atropos_agent.renderer.probes import CORE_FOLLOWINGS, TEXTS, Following, assistant, spoken
from atropos_agent.renderer.template import QUESTION, ChatTemplate
from atropos_agent.trajectory import Message

LONG = 8
"""Turns of the conversations that a prediction is checked on."""


@dataclass(frozen=True, slots=True)
class Branching:
    """When history, rendered anew, is another than what was shown and sampled.

    Texts are named as in `probes.TEXTS`, what follows them as in `probes.CORE_FOLLOWINGS`. `at_once`: the
    text of a turn, or the prompt it answered, is rewritten as soon as that follows. `later`: a text that
    was kept before what followed it is rewritten when the third follows a later text. `predictable` is
    False without a bridge, and where rewriting depends on more than that, the age of a turn for one.
    """

    at_once: frozenset[tuple[str, str]]
    later: frozenset[tuple[str, str, str]]
    predictable: bool

    def sequences(self, turns: Sequence[tuple[str, str | None]]) -> int | None:
        """Into how many training sequences a conversation falls when history follows the template.

        `turns` are kinds of text and of what follows, None where the conversation ends. Returns None
        where that cannot be predicted.
        """
        return 1 + sum(self._breaks(turns)) if self.predictable else None

    def _breaks(self, turns: Sequence[tuple[str, str | None]]) -> Iterator[bool]:
        """For each turn but the last, whether the prompt after it begins another sequence."""
        kept: list[tuple[str, str]] = []
        for text, following in turns:
            if following is None:
                return
            rewritten = {one for one in kept if (*one, following) in self.later}
            yield bool(rewritten) or (text, following) in self.at_once
            kept = [*(one for one in kept if one not in rewritten), (text, following)]

    def __str__(self) -> str:
        """In words, what a rollout of tool calls and one of several questions come to."""
        if not self.predictable:
            return "not predictable"
        if not self.at_once | self.later:
            return "never"
        texts = sorted({text for text, *_ in self.at_once | self.later})
        if len(self.at_once) == len(TEXTS) * len(CORE_FOLLOWINGS):
            return "after every turn"
        whens = sorted({rule[-1] for rule in self.at_once | self.later})
        return f"after {', '.join(texts)}; before {', '.join(whens)}"


UNPREDICTABLE = Branching(frozenset(), frozenset(), predictable=False)


def find_branching(template: ChatTemplate, named: Mapping[str, Following]) -> Branching:
    """Try every kind of text before every kind of what follows, and again before a later one."""
    followings = {name: named[name] for name in CORE_FOLLOWINGS}
    at_once = frozenset(
        (text, name)
        for text, (name, following) in product(TEXTS, followings.items())
        if _rewrites(template, [QUESTION], spoken(text), following)
    )
    later = frozenset(
        (text, name, then)
        for text, (name, first), (then, last) in product(TEXTS, followings.items(), followings.items())
        if _rewrites_later(template, [QUESTION, assistant(spoken(text)), *first], last)
    )
    found = Branching(at_once, later, predictable=True)
    checked = all(_agrees(template, found, turns, followings) for turns in _long_conversations())
    return Branching(at_once, later, checked)


def _rewrites(
    template: ChatTemplate, history: Sequence[Message], text: str, following: Sequence[Message]
) -> bool:
    """True where `following` does not just extend the prompt and the text that answered it."""
    try:
        after = template.after_sentinel(following)
        shown = template.text(history) + text + after
        return template.text([*history, assistant(text), *following]) != shown
    except RenderError:
        return True


def _rewrites_later(template: ChatTemplate, history: Sequence[Message], following: Sequence[Message]) -> bool:
    """True where `history` is shown otherwise once a plain text and `following` come behind it."""
    try:
        rendered = template.text([*history, assistant(spoken("plain text")), *following])
        return not rendered.startswith(template.settled(history))
    except RenderError:
        return True


def _long_conversations() -> Iterator[list[tuple[str, str]]]:
    """Tool calls with and without reasoning, and with a second question in the middle."""
    for text in ("a tool call", "reasoning and a tool call"):
        turns = [(text, "an observation")] * LONG
        yield turns
        yield [*turns[: LONG // 2], (text, "a real user turn"), *turns[: LONG // 2]]


def _agrees(
    template: ChatTemplate,
    found: Branching,
    turns: Sequence[tuple[str, str]],
    followings: Mapping[str, Following],
) -> bool:
    talk: list[Message] = [QUESTION]
    seen = []
    for text, name in turns:
        seen.append(_rewrites(template, talk, spoken(text), followings[name]))
        talk += [assistant(spoken(text)), *followings[name]]
    return 1 + sum(seen) == found.sequences(turns)
