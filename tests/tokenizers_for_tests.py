"""Small byte-level tokenizers with chat templates, each template with one real-world habit."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from atropos_agent.dialects.hermes import HERMES_MARKS, HERMES_TAGS
from atropos_agent.renderer import Renderer

# Line breaks join the punctuation before them, so a close in plain text merges with what it closes.
WORDS = r"\s*[\r\n]+| ?\w+| ?[^\s\w]+[\r\n]*|\s+"
CORPUS = ["hello world, the answer is 42.\n\nuser\nassistant\nsystem\n  tool output  \n"] * 3
SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<s>",
    "</s>",
    "<|user|>",
    "<|assistant|>",
    "<|system|>",
    "<|head|>",
    "<|eot|>",
)
CHATML = (
    "{%- for m in messages %}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
OPEN_THINK = CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")
# Reasoning before the last real user turn is dropped; every assistant text is trimmed.
QWEN3 = (
    "{%- set ns = namespace(last=-1) %}"
    "{%- for m in messages %}"
    "{%- if m.role == 'user' and not m.content.startswith('<tool_response>') %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}"
    "{%- endfor %}"
    "{%- for m in messages %}"
    "{%- set text = m.content %}"
    "{%- if m.role == 'assistant' %}"
    "{%- if '</think>' in text and loop.index0 < ns.last %}"
    "{%- set text = text.split('</think>')[-1] %}{%- endif %}"
    "{%- set text = text | trim %}"
    "{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TRIMMING = CHATML.replace("m.content", "(m.content | trim)")
# No close: the header of the next turn is what a policy stops with.
GLM = (
    "{{- '<s>' }}"
    "{%- for m in messages %}{{- '<|' + m.role + '|>\\n' + m.content }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)
LLAMA = (
    "{{- bos_token }}"
    "{%- for m in messages %}{{- '<|head|>' + m.role + '\\n\\n' + m.content + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|head|>assistant\\n\\n' }}{%- endif %}"
)
ALTERNATING = (
    "{{- bos_token }}"
    "{%- for m in messages %}"
    "{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('Conversation roles must alternate user/assistant') }}{%- endif %}"
    "{%- if m.role == 'user' %}{{- '<|user|> ' + m.content }}"
    "{%- else %}{{- ' ' + m.content + eos_token }}{%- endif %}"
    "{%- endfor %}"
)
PLAIN_CLOSE = (
    "{%- for m in messages %}{{- '### ' + m.role + '\\n' + m.content + '\\n### end\\n\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '### assistant\\n' }}{%- endif %}"
)
# The last turn ends otherwise than history does.
GPT_OSS = CHATML.replace(
    "'<|im_end|>\\n'", "('<|endoftext|>' if loop.last and m.role == 'assistant' else '<|im_end|>')"
)
# The header that ends a turn is also written after the last one.
GLM_CLOSED = GLM + "{%- if messages[-1].role == 'assistant' %}{{- '<|user|>' }}{%- endif %}"
NO_FINAL_CLOSE = CHATML.replace(
    "'<|im_end|>\\n'", "('' if loop.last and m.role == 'assistant' else '<|im_end|>\\n')"
)
BREAK_BEFORE_CLOSE = CHATML.replace("'<|im_end|>\\n'", "'\\n<|im_end|>\\n'")
# The last character of the close and the line breaks after it are one token.
STRADDLED_CLOSE = PLAIN_CLOSE.replace("### end", "### end.")
DEPENDS_ON_TEXT = CHATML.replace(
    "'<|im_end|>\\n'", "('<|im_end|>\\n' if m.content | length % 2 else '<|im_end|>\\n\\n')"
)
DEPENDS_ON_TURN = CHATML.replace("'<|im_end|>\\n'", "'<|im_end|>' + ('\\n' if messages | length < 6 else '')")
ONE_TURN = "{%- if messages | length > 1 %}{{- raise_exception('one message only') }}{%- endif %}" + CHATML
# Old tool outputs are left out to save room.
FORGETTING = CHATML.replace(
    "m.content",
    "('(left out)' if loop.revindex > 4 and m.content.startswith('<tool_response>') else m.content)",
)
PARTS = CHATML.replace("m.content", "m.content[0].text")
DATED = "{{- strftime_now('%Y-%m-%d %H:%M:%S.%f') }}" + CHATML
ZOO = Path(__file__).parent / "zoo"
TEMPLATES = {
    **{path.stem: path.read_text() for path in sorted(ZOO.glob("*.jinja"))},
    "chatml": CHATML,
    "open_think": OPEN_THINK,
    "qwen3": QWEN3,
    "trimming": TRIMMING,
    "glm": GLM,
    "llama": LLAMA,
    "alternating": ALTERNATING,
    "plain_close": PLAIN_CLOSE,
    "gpt_oss": GPT_OSS,
    "glm_closed": GLM_CLOSED,
    "no_final_close": NO_FINAL_CLOSE,
    "break_before_close": BREAK_BEFORE_CLOSE,
    "straddled_close": STRADDLED_CLOSE,
    "depends_on_text": DEPENDS_ON_TEXT,
    "depends_on_turn": DEPENDS_ON_TURN,
    "one_turn": ONE_TURN,
    "forgetting": FORGETTING,
    "parts": PARTS,
    "dated": DATED,
}
END = {
    "glm": "<|user|>",
    "glm_closed": "<|user|>",
    "gpt_oss": "<|endoftext|>",
    "llama": "<|eot|>",
    "today": "<|eot|>",
    "drops_tool": "<|eot|>",
    "strips_at_once": "<|eot|>",
    "no_system": "<|eot|>",
    "end_of_text": "<|endoftext|>",
    "instruct": "</s>",
    "alternating": "</s>",
    "plain_close": "</s>",
    "straddled_close": "</s>",
}


def tokenizer_for(name: str, *, rstrip_end: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with the template `name` of TEMPLATES; `rstrip_end`: its end token eats white space."""
    end = END.get(name, "<|im_end|>")
    backend = Tokenizer.from_str(backend_without_added_tokens())
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, rstrip=rstrip_end and token == end)
            for token in SPECIAL
        ]
    )
    backend.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in HERMES_TAGS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token=end, pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = TEMPLATES[name]
    return tokenizer


@cache
def backend_without_added_tokens() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet)
    )
    return backend.to_str()


def chatml_renderer() -> Renderer:
    """The renderer of the plain ChatML tokenizer."""
    return Renderer(tokenizer_for("chatml"), marks=HERMES_MARKS)
