"""Small byte-level tokenizers with the special tokens of a model family, for that family's chat template."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from atropos_agent.dialects.hermes import HERMES_TAGS
from tests.tokenizers_for_tests import backend_without_added_tokens

SPECIAL = re.compile(
    r"<\|[^<>|\s'\"{}]+\|?>|<[a-z_]+\|>|<｜[^<>\s]+?｜>|</?s>|\[/?INST\]|\[gMASK\]|<sop>"
    r"|<(?:start_of_turn|end_of_turn|end_of_utterance)>"
)


@dataclass(frozen=True, slots=True)
class Family:
    """The tokens that begin a text and end a turn; `stops` end one too. `rstrip`: special tokens eat the
    white space after them."""

    eos: str
    bos: str = ""
    stops: tuple[str, ...] = ()
    rstrip: bool = False


# By the beginning of the name of the template, the longest that fits.
FAMILIES = {
    "cohere": Family("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>"),
    "deepseek": Family("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>"),
    "diffusion_gemma": Family("<turn|>", "<bos>"),
    "gemma": Family("<end_of_turn>", "<bos>"),
    "gemma4": Family("<turn|>", "<bos>"),
    "glm": Family("<|endoftext|>", stops=("<|user|>", "<|observation|>")),
    "gptoss": Family("<|return|>", "<|startoftext|>", stops=("<|call|>",)),
    "idefics": Family("<end_of_utterance>", "<|begin_of_text|>"),
    "lfm": Family("<|im_end|>", "<|startoftext|>"),
    "llama": Family("<|eot_id|>", "<|begin_of_text|>"),
    "llava": Family("</s>", "<s>"),
    "muse": Family("<|eot|>", "<|begin_of_text|>", stops=("<|eom|>",)),
    "nemotron": Family("<|im_end|>", "<s>"),
    "phi": Family("<|endoftext|>", "<s>", stops=("<|end|>",), rstrip=True),
    "qwen": Family("<|im_end|>", stops=("<|endoftext|>",)),
    "smolvlm": Family("<end_of_utterance>", "<|im_start|>"),
}


def family_of(name: str) -> Family:
    """The family of the template `name`."""
    return FAMILIES[max((prefix for prefix in FAMILIES if name.startswith(prefix)), key=len)]


def family_tokenizer(
    name: str, template: str, extra: Iterable[str] = ()
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A tokenizer with that template, its special tokens and `extra` ones; and the ids that end a turn."""
    family = family_of(name)
    named = {family.eos, family.bos, *family.stops} - {""}
    special = sorted({*SPECIAL.findall(template), *extra, *named} - {*HERMES_TAGS})
    backend = Tokenizer.from_str(backend_without_added_tokens())
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False, rstrip=family.rstrip) for token in special]
    )
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in HERMES_TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=family.bos or None, eos_token=family.eos
    )
    tokenizer.chat_template = template
    stops = [tokenizer.convert_tokens_to_ids(token) for token in (family.eos, *family.stops)]
    return tokenizer, [token for token in stops if isinstance(token, int)]
