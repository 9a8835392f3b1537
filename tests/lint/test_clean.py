import orjson

from atropos_agent.lint import Linter, Source, Vocabulary, sources
from tests.lint.clean_run import shipped_renderer, write_clean_run


async def test_a_thousand_clean_trajectories_give_no_finding(tmp_path):
    renderer = shipped_renderer()
    await write_clean_run(tmp_path / "run", 125, renderer)
    (source,) = sources(tmp_path / "run")
    linter = Linter(source)
    assert [str(finding) for finding in linter.run()] == []
    assert (linter.trajectories, linter.skipped) == (1000, ())
    groups = tmp_path / "groups.jsonl"
    lines = (tmp_path / "run" / "groups.jsonl").read_bytes().splitlines()
    groups.write_bytes(b"".join(orjson.dumps(orjson.loads(line)["group"]) + b"\n" for line in lines))
    for known in (Vocabulary.of(renderer), Vocabulary(None, renderer.stop_ids), Vocabulary()):
        bare = Linter(Source(groups, known))
        assert [str(finding) for finding in bare.run()] == []
        assert bare.trajectories == 1000
