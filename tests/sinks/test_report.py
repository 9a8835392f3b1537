import base64
import hashlib
import json
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from atropos_agent.errors import RunDirectoryError
from atropos_agent.record import RunDir
from atropos_agent.record.rundir import LOGPROB_CHECK
from atropos_agent.sinks.report import visible_pieces, write_report
from atropos_agent.trajectory import (
    Blame,
    Completion,
    Failure,
    FailureKind,
    ParseError,
    ParseErrorKind,
    RolloutGroup,
    StopReason,
    ToolCall,
    ToolResult,
)
from tests.rollouts import NAN, a_rollout, with_result

HOSTILE = (
    "</script><script>document.title='owned'</script><!--<script>"
    "<img src=x onerror=\"document.title='owned'\">"
    "\u2028\u2029&amp;]]>__DATA__ __SCRIPT_HASH__ \\u003c/script>"
)


class Page(HTMLParser):
    """The elements of a page as an HTML parser sees them, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        self.attributes += attrs
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


def a_step(rollout, **changes):
    """`rollout` with its only step changed."""
    (step,) = rollout.result.steps
    return with_result(rollout, steps=(replace(step, **changes),))


def written(path, *groups: RolloutGroup, **options) -> Page:
    with RunDir.create(path, {"config": {"note": HOSTILE}}) as run:
        for group in groups:
            run.add_group(group)
    return Page(write_report(path, **options).read_text("utf-8"))


def hostile_group() -> RolloutGroup:
    rollout = a_step(
        a_rollout(),
        assistant_message=HOSTILE,
        completion=Completion(HOSTILE, model=HOSTILE),
        tool_calls=(ToolCall(HOSTILE, uniq_id="c1"),),
        tool_results=(ToolResult(False, HOSTILE, HOSTILE, uniq_id="c1"),),
        parse_errors=(ParseError(ParseErrorKind.UNCLOSED, HOSTILE, (0, 1)),),
        following=({"role": "user", "content": HOSTILE},),
    )
    result = replace(
        rollout.result,
        prompt_messages=({"role": "user", "content": HOSTILE},),
        failure=Failure(FailureKind.OTHER, Blame.INFRASTRUCTURE, False, HOSTILE, HOSTILE),
    )
    trace = replace(rollout.trace, parts={HOSTILE: 1.0}, result=result)
    return RolloutGroup(HOSTILE, 0, (replace(rollout, item_id=HOSTILE, traces=(trace,)),))


def test_hostile_text_stays_text(tmp_path):
    harmless = written(tmp_path / "a", RolloutGroup("item", 0, (a_rollout(),)))
    page = written(tmp_path / "b", hostile_group(), decode=lambda ids: [HOSTILE] * len(ids))
    assert page.elements == harmless.elements
    assert len(page.scripts) == 2
    assert page.scripts[1] == harmless.scripts[1]
    (shown,) = page.data["trajectories"]
    assert shown["item"] == HOSTILE
    assert shown["prompt"][0]["content"] == HOSTILE
    assert shown["steps"][0]["results"][0]["output"] == HOSTILE
    assert shown["sequences"][0]["pieces"][0] == HOSTILE


def test_the_page_asks_the_network_for_nothing_and_runs_only_its_own_script(tmp_path):
    page = written(tmp_path / "run", RolloutGroup("item", 0, (a_rollout(),)))
    assert not {"link", "img", "iframe", "object", "base"} & set(page.elements)
    assert not {"src", "href", "onclick", "onload"} & {name for name, _ in page.attributes}
    policy = next(value for _, value in page.attributes if value and value.startswith("default-src"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_script_never_makes_markup_of_data(tmp_path):
    script = written(tmp_path / "run").scripts[1]
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script


def a_check(**changes):
    """What `check-logprobs` leaves in a run, with one token of one turn."""
    worst = {
        "item_id": HOSTILE, "repetition": 0, "rollout_id": HOSTILE, "sequence_index": 0, "step_number": 1,
        "token_index": 3, "token_id": 2, "recorded": -0.5, "recomputed": -0.75,
    }  # fmt: skip
    figures = {"count": 1, "median": 0.25, "p90": 0.25, "p99": 0.25, "max": 0.25, "worst": worst}
    origin = {
        "provenance": "sampled",
        "logprob_provenance": "sampled",
        "logprob_mode": "raw",
        "overall": figures,
        "turns": [{"turn": 1, **figures}],
        "histogram": [[0.1, 1]],
    }
    return {
        "schema": 1, "checked_at": 1.7e9, "teacher": HOSTILE, "groups": 1, "compared": 1,
        "skipped": {"no logprob recorded": 4}, "origins": [origin], **changes,
    }  # fmt: skip


def test_the_check_of_logprobs_is_shown_where_there_is_one(tmp_path):
    assert written(tmp_path / "run").data["logprob_check"] is None
    (tmp_path / "run" / LOGPROB_CHECK).write_text(json.dumps(a_check()))
    page = Page(write_report(tmp_path / "run").read_text("utf-8"))
    assert page.data["logprob_check"]["origins"][0]["overall"]["worst"]["token_index"] == 3


def test_a_check_that_is_no_json_is_named(tmp_path):
    written(tmp_path / "run")
    (tmp_path / "run" / LOGPROB_CHECK).write_text("{")
    with pytest.raises(RunDirectoryError, match=r"logprob_check\.json cannot be read"):
        write_report(tmp_path / "run")


def test_a_run_without_groups_has_a_report(tmp_path):
    page = written(tmp_path / "run")
    assert page.data["trajectories"] == []
    assert page.data["summary"]["mean_score"] is None


def test_all_rollouts_are_counted_and_some_of_every_kind_are_shown(tmp_path):
    many = [a_rollout(n, float(n % 2)) for n in range(40)]
    rare = [a_rollout(90, 0.0, stop=StopReason.MAX_STEPS), a_rollout(91, None, stop=StopReason.ERROR)]
    groups = [RolloutGroup(str(n), 0, (rollout,)) for n, rollout in enumerate([*many, *rare])]
    page = written(tmp_path / "run", *groups, max_trajectories=6)
    shown = [(t["stop"], t["score"]) for t in page.data["trajectories"]]
    assert page.data["summary"]["rollouts"] == 42
    assert Counter(shown) == {
        ("final_answer", 0.0): 2,
        ("final_answer", 1.0): 2,
        ("max_steps", 0.0): 1,
        ("error", None): 1,
    }


def test_the_token_view_has_what_the_record_has(tmp_path):
    group = RolloutGroup("item", 0, (a_rollout(logprobs=(-0.5, NAN)),))
    page = written(tmp_path / "run", group, decode=lambda ids: [f"<{token}>" for token in ids])
    assert page.data["trajectories"][0]["sequences"] == [
        {
            "ids": [7, 8, 1, 2],
            "pieces": ["<7>", "<8>", "<1>", "<2>"],
            "mask": "0011",
            "has_logprob": "0010",
            "logprobs": [-0.5],
            "spans": [[1, 2, 4, "sampled"]],
        }
    ]


def test_where_and_why_a_sequence_begins_is_shown(tmp_path):
    page = written(tmp_path / "run", RolloutGroup("item", 0, (a_rollout(sequences=2), a_rollout(1))))
    assert [shown["breaks"] for shown in page.data["trajectories"]] == [[[2, "template"]], []]
    charts = {chart["title"]: chart["rows"] for chart in page.data["charts"] if "rows" in chart}
    assert charts["Prefix breaks"] == [["template", 1]]


def test_an_assistant_message_is_cut_at_its_reasoning_and_calls(tmp_path):
    text = "<think>why</think>so <tool_call>{}</tool_call> then"
    call = text.index("<tool_call>"), text.index(" then")
    rollout = a_step(a_rollout(), assistant_message=text, tool_calls=(ToolCall("t", span=call),))
    page = written(tmp_path / "run", RolloutGroup("item", 0, (rollout,)))
    assert page.data["trajectories"][0]["steps"][0]["segments"] == [
        ["reasoning", "<think>why</think>"],
        ["text", "so "],
        ["call", "<tool_call>{}</tool_call>"],
        ["text", " then"],
    ]


def test_segments_hold_the_whole_message_whatever_the_spans_say(tmp_path):
    calls = tuple(ToolCall("t", span=span) for span in [(-1, 5), (2, 99), (3, 3), (1, 4), (2, 6)])
    rollout = a_step(a_rollout(), assistant_message="abcdefgh", tool_calls=calls)
    page = written(tmp_path / "run", RolloutGroup("item", 0, (rollout,)))
    segments = page.data["trajectories"][0]["steps"][0]["segments"]
    assert "".join(text for _, text in segments) == "abcdefgh"


def charts(path, *rollouts):
    page = written(path, RolloutGroup("item", 0, rollouts))
    return {chart["title"]: chart.get("columns") or chart["rows"] for chart in page.data["charts"]}


def test_few_rewards_are_counted_each_and_many_in_bins(tmp_path):
    few = charts(tmp_path / "a", *(a_rollout(n, score) for n, score in enumerate([0.0, 1.0, 1.0])))
    assert few["Reward"] == [["0", 1], ["1", 2]]
    many = charts(tmp_path / "b", *(a_rollout(n, n / 100) for n in range(101)))
    assert len(many["Reward"]) == 24
    assert sum(count for _, count in many["Reward"]) == 101


def test_whole_numbers_get_whole_bins_without_gaps(tmp_path):
    def with_tokens(index, tokens):
        rollout = a_rollout(index)
        return with_result(rollout, total_tokens=tokens)

    near = charts(tmp_path / "a", with_tokens(0, 1), with_tokens(1, 3))
    assert near["Sampled tokens"] == [["1", 1], ["2", 0], ["3", 1]]
    far = charts(tmp_path / "b", *(with_tokens(n, n * 7) for n in range(50)))
    assert sum(count for _, count in far["Sampled tokens"]) == 50
    assert all("." not in label for label, _ in far["Sampled tokens"])


def test_broken_utf8_is_shown_by_its_bytes():
    assert visible_pieces([b"ok", "ü".encode(), b"\xf0\x9f", b"a\xff"]) == ["ok", "ü", "\\xf0\\x9f", "a\\xff"]


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="no run"):
        write_report(tmp_path)


def test_each_trace_of_a_rollout_is_shown(tmp_path):
    rollout = a_rollout()
    helper = replace(rollout.trace, name="helper", score=0.25)
    both = replace(rollout, traces=(rollout.trace, helper))
    page = written(tmp_path / "run", RolloutGroup("item", 0, (both, a_rollout(1, 0.0))))
    shown = [(t["id"], t["score"], t["group"]) for t in page.data["trajectories"]]
    assert sorted(shown, key=str) == [
        ("r0 agent", 1.0, [1.0, 0.0]),
        ("r0 helper", 0.25, [0.25, None]),
        ("r1", 0.0, [1.0, 0.0]),
    ]


def test_reasoning_that_the_server_kept_apart_is_shown(tmp_path):
    rollout = a_step(a_rollout(), completion=Completion("said", reasoning="because"))
    page = written(tmp_path / "run", RolloutGroup("item", 0, (rollout,)))
    segments = page.data["trajectories"][0]["steps"][0]["segments"]
    assert segments == [["reasoning", "because"], ["text", "said"]]


def test_a_sealed_run_has_the_same_report(tmp_path):
    live = written(tmp_path / "run", RolloutGroup("item", 0, (a_rollout(), a_rollout(1, 0.0))))
    with RunDir.open(tmp_path / "run") as run:
        run.seal()
    assert Page(write_report(tmp_path / "run").read_text("utf-8")).data == live.data
