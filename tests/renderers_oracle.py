"""The hand-written renderers of the package `renderers`, held against ours of the same chat template."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from atropos_agent.dialects.hermes import HERMES_MARKS
from atropos_agent.renderer import Renderer
from atropos_agent.trajectory import FinishReason, Json, Message
from tests.conversations import ANSWERED, SAID
from tests.family_tokenizers import family_tokenizer

SYSTEM: Message = {"role": "system", "content": "You look things up."}
QUESTION: Message = {"role": "user", "content": "Where is it?"}
OPENINGS = {"a question": [QUESTION], "a system prompt and a question": [SYSTEM, QUESTION]}
TEXTS = ("plain text", "closed reasoning", "a tool call", "reasoning and a tool call", "other scripts")
IN_REASONING = ("the end of a reasoning block",)
FOLLOWINGS = {
    **{name: [{"role": "user", "content": text}] for name, text in ANSWERED.items()},
    "two messages": [{"role": "user", "content": text} for text in ANSWERED.values()][:2],
}


class Pair:
    """Ours and theirs for one chat template, with one tokenizer."""

    def __init__(self, name: str, template: str, theirs: str, settings: Mapping[str, Json]) -> None:
        package = importlib.import_module("renderers")
        make = getattr(package, f"{theirs}Renderer")
        # every token that it asks the vocabulary for
        asked = re.findall(r"\"((?:<|\[)[^\"\\ ]+(?:>|\]))\"", inspect.getsource(inspect.getmodule(make)))
        tokenizer, stops = family_tokenizer(name, template, asked)
        config = getattr(package, f"{theirs}RendererConfig")
        self.ours = Renderer(tokenizer, stop_ids=stops, template_arguments=settings, marks=HERMES_MARKS)
        self.theirs = make(tokenizer, config(thinking_retention="all", **settings))
        self.stops = sorted(self.ours.certificate.stop_ids.union(stops), key=self._is_foreign)

    def _is_foreign(self, stop: int) -> bool:
        return stop not in self.ours.certificate.stop_ids

    def differences(self) -> Iterator[str]:
        """Every case in which the ids are not the same, named."""
        for opening, messages in OPENINGS.items():
            ours = self.ours.render(messages).ids.tolist()
            theirs = self.theirs.render_ids(messages, add_generation_prompt=True)
            if ours != theirs:
                yield f"{opening}: other ids"
        texts = IN_REASONING if self.ours.opens_reasoning else TEXTS
        cut = SAID["plain text"] if self.ours.opens_reasoning else SAID["open reasoning"]
        for following, new in FOLLOWINGS.items():
            for text, stop in product(texts, [*self.stops, None]):
                if found := self._after(SAID[text], new, stop):
                    yield f"{text}, {self._named(stop)}, then {following}: {found}"
            if found := self._after(cut, new, None):
                yield f"reasoning, cut, then {following}: {found}"

    def _named(self, stop: int | None) -> str:
        if stop is None:
            return "cut"
        return f"stopped by {self.ours.decode(np.array([stop], np.int32))}"

    def _after(self, text: str, new: list[Message], stop: int | None) -> str | None:
        prompt, sampled = self.ours.render([QUESTION]).ids, self.ours.encode(text)
        finish = FinishReason.LENGTH
        if stop is not None:
            sampled, finish = np.append(sampled, np.int32(stop)), FinishReason.STOP
        talk: list[Message] = [QUESTION, {"role": "assistant", "content": text}, *new]
        bridge = self.ours.bridge(talk, sampled, finish=finish, turn=1)
        ours = np.concatenate([prompt, sampled, bridge.ids]).tolist()
        theirs = self.theirs.bridge_to_next_turn(prompt.tolist(), sampled.tolist(), new)
        if theirs is None:
            return "they do not bridge"
        return None if theirs.token_ids == ours else "other ids"
