"""What the embedded policy is trained on is what the agent would record."""

import random

from tokenizers import Tokenizer

from atropos_agent.dialects.hermes.parser import parse
from atropos_environments.terminal_tasks.generate import families, generate
from scripts.tiny_policy.data import encode_dialogue
from scripts.tiny_policy.dialogues import Spoken, call_text, dialogue
from tests.test_embedded_model import MODEL


def one_of_each(slip_share: float = 0.0) -> list[list[Spoken]]:
    rng = random.Random(1)
    return [dialogue(generate(family, 3, 9), rng, slip_share) for family in families()]


def test_every_command_is_a_call_that_the_parser_reads_back() -> None:
    for family in families():
        for turn in generate(family, 5, 2).solution:
            parsed = parse(call_text(turn))
            assert [call.arguments["command"] for call in parsed.calls] == [turn.command]
            assert not parsed.errors
            assert parsed.reasoning.strip() == turn.think


def test_exactly_the_assistants_own_text_is_trained() -> None:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for spoken in one_of_each():
        example = encode_dialogue(tokenizer, spoken)
        trained = tokenizer.decode(example.ids[example.trained].tolist(), skip_special_tokens=False)
        said = [message["content"] for message, _ in spoken if message["role"] == "assistant"]
        assert trained == "".join(f"{text}<|im_end|>" for text in said)


def test_a_failing_command_is_shown_and_not_trained() -> None:
    slipped = [
        spoken for spoken in one_of_each(1.0) if (spoken[1][0]["role"], spoken[1][1]) == ("assistant", False)
    ]
    assert len(slipped) > 5
    for spoken in slipped:
        assert '"success": false' in spoken[2][0]["content"]
        assert spoken[3][1]
