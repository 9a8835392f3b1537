"""Decoding, byte strings to ids, and text that must never become a control token."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atropos_agent.dialects.hermes import HERMES_MARKS, HERMES_TAGS
from atropos_agent.renderer import Renderer
from tests.tokenizers_for_tests import CHATML, SPECIAL, tokenizer_for

RENDERER = Renderer(tokenizer_for("chatml"), marks=HERMES_MARKS)
CONTROL_IDS = set(range(300, RENDERER.vocabulary_size))
PIECES = [
    *SPECIAL,
    *HERMES_TAGS,
    "<|im_",
    "end|>",
    "<",
    ">",
    "\n",
    " ",
    "🙂",
    "漢",
    "\u200b",
    "\ufffd",
    "word",
]
TEXT = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


@given(TEXT)
def test_neutralised_text_holds_no_control_id(text: str):
    neutral = RENDERER.neutralise(text)
    assert not CONTROL_IDS & set(RENDERER.encode(neutral).tolist())
    assert neutral.replace("\u200b", "") == text.replace("\u200b", "")


@given(st.text())
def test_decode_inverts_encode(text: str):
    assert RENDERER.decode(RENDERER.encode(text)) == text


@given(TEXT)
def test_ids_come_back_from_their_bytes(text: str):
    ids = RENDERER.encode(text)
    pieces = RENDERER.token_bytes(ids.tolist())
    assert b"".join(pieces) == text.encode()
    found = RENDERER.ids_from_bytes(pieces)
    assert found is not None
    assert found.tolist() == ids.tolist()


def test_unknown_and_empty_bytes_have_no_ids():
    assert RENDERER.ids_from_bytes([b"never merged \xff\xfe"]) is None
    assert RENDERER.ids_from_bytes([b"a", b""]) is None


def test_bytes_of_two_ids_are_ambiguous():
    tokenizer = tokenizer_for("chatml")
    assert Renderer(tokenizer, marks=HERMES_MARKS).ids_from_bytes([b"a", b" "]) is not None
    tokenizer.add_tokens([" "])
    assert Renderer(tokenizer, marks=HERMES_MARKS).ids_from_bytes([b"a", b" "]) is None


def test_a_completion_loses_only_its_final_stop_token():
    ids = RENDERER.encode("a<|im_end|>b<|im_end|>")
    assert RENDERER.decode_completion(ids) == "a<|im_end|>b"
    assert RENDERER.decode_completion(ids[:-1]) == "a<|im_end|>b"
    assert RENDERER.decode_completion(ids[:0]) == ""


def test_control_tokens_are_the_special_ones_the_tags_and_the_hermes_tags():
    tokenizer = tokenizer_for("chatml")
    tokenizer.add_tokens(["[INST]", "plainword", "  "])
    control = set(Renderer(tokenizer, marks=HERMES_MARKS).control_tokens)
    assert control == {*SPECIAL, *HERMES_TAGS, "[INST]"}


def test_vocabulary_size_is_one_more_than_the_largest_id():
    assert RENDERER.vocabulary_size == 300 + len(SPECIAL) + len(HERMES_TAGS)


def folding_renderer() -> Renderer:
    """Words, lower-cased and stripped of U+200B; `<end>` is matched after that."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("\u200b", "")])
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken("<end>", special=True, normalized=True)])
    backend.add_special_tokens([AddedToken("|", special=True, normalized=False)])
    return Renderer(
        PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", chat_template=CHATML),
        marks=HERMES_MARKS,
    )


def test_what_a_normalizer_would_restore_is_removed():
    renderer = folding_renderer()
    control = set(renderer.encode("<end>|").tolist())
    assert control & set(renderer.encode("a <END> a").tolist())
    for text in ("a <END> a", "a <end> a", "<e<end>nd>", "a | a"):
        assert not control & set(renderer.encode(renderer.neutralise(text)).tolist())


def test_a_vocabulary_of_words_has_no_bytes():
    assert folding_renderer().ids_from_bytes([b"a"]) is None
