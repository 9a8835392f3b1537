"""Chat templates that show structured calls, each with one real-world habit, and their tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from atropos_agent.renderer import Marks, Renderer
from atropos_agent.trajectory import AssistantMessage, Json, Message, MessageCall
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

TURN = "'<|im_start|>' + m.role + '\\n' + m.content"
CALLS = (
    "{%- for c in m.tool_calls or [] %}{{- '\\n[' + c.function.name + ']' + c.function.arguments | tojson }}"
)
CHATML = (
    "{%- for m in messages %}{{- " + TURN + " }}" + CALLS + "{%- endfor %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
# A turn of calls ends with another token than a turn of text.
OWN_END = CHATML.replace("'<|im_end|>\\n'", "('<|eot|>' if m.tool_calls else '<|im_end|>')")
# The header of the result is what a policy stops with.
HEADER_ENDS = (
    "{%- for m in messages %}{{- '<|' + ('head' if m.role == 'tool' else m.role) + '|>\\n' + m.content }}"
    + CALLS
    + "{%- endfor %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"
)
TOOL_TEMPLATES = {
    "chatml": CHATML,
    "own_end": OWN_END,
    "header_ends": HEADER_ENDS,
    "qwen3_full": TEMPLATES["qwen3_full"],
    # Arguments are JSON text: a mapping cannot be added to a string.
    "json_text": CHATML.replace("c.function.arguments | tojson", "c.function.arguments"),
    # Arguments in the notation of Python where they come as a mapping.
    "printed": CHATML.replace("']' + c.function.arguments | tojson", "']' ~ c.function.arguments"),
    # The id of a call stands behind its arguments, and the result is in JSON.
    "id_behind": CHATML.replace("arguments | tojson", "arguments | tojson + c.id").replace(
        TURN, TURN.replace("m.content", "(m.content | tojson if m.role == 'tool' else m.content)")
    ),
    "parts": CHATML.replace("m.content", "m.content[0].text"),
    "one_call": "{%- for m in messages if m.tool_calls and m.tool_calls | length > 1 %}"
    "{{- raise_exception('one call at a time') }}{%- endfor %}" + CHATML,
    # What follows a call depends on the text before it.
    "text_behind": CHATML.replace("'<|im_end|>\\n'", "'<|im_end|>' + (m.content if m.tool_calls else '\\n')"),
    "counted": CHATML.replace(
        "'<|im_end|>\\n' }}{%- endfor %}", "'<|im_end|>' + '\\n' * (messages | length) }}{%- endfor %}"
    ),
    "no_calls": TEMPLATES["chatml"],
    "no_results": TEMPLATES["drops_tool"],
    "forgets_results": CHATML.replace(
        TURN, TURN.replace("m.content", "('(old)' if m.role == 'tool' and loop.revindex > 2 else m.content)")
    ),
}
REASONS_IN_CALLS = CHATML.replace(
    CALLS,
    "{%- if m.tool_calls and m.thinking %}{{- '<think>' + m.thinking + '</think>' }}{%- endif %}" + CALLS,
)
PLAIN = Marks()


@cache
def tool_renderer(name: str, marks: Marks = PLAIN) -> Renderer:
    tokenizer = tokenizer_for("chatml")
    tokenizer.chat_template = TOOL_TEMPLATES[name]
    return Renderer(tokenizer, marks=marks)


def call(number: int, arguments: dict[str, Json], name: str = "look") -> MessageCall:
    return {
        "id": f"call{number:05}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def calling(calls: Sequence[MessageCall], content: str = "", reasoning: str = "") -> AssistantMessage:
    message: AssistantMessage = {"role": "assistant", "content": content, "tool_calls": calls}
    if reasoning:
        message["reasoning"] = reasoning
    return message


def result(of: MessageCall, content: str) -> Message:
    return {"role": "tool", "name": of["function"]["name"], "tool_call_id": of["id"], "content": content}
