import pytest

from atropos_agent.errors import SandboxLost
from atropos_agent.toolset import ToolContext, ToolRegistry
from atropos_agent.trajectory import Json, ToolCall, ToolResult
from atropos_tools.files import EditFile, ReadFile, WriteFile
from tests.fake_sandbox import FakeSandbox

TOOLS = ToolRegistry([ReadFile(), WriteFile(), EditFile()])


async def run(sandbox: FakeSandbox | None, name: str, /, **arguments: Json) -> ToolResult:
    return await TOOLS.execute(ToolCall(name, arguments), ToolContext(sandbox=sandbox))


async def edit(text: bytes, old: str, new: str, **arguments: Json) -> tuple[ToolResult, bytes]:
    sandbox = FakeSandbox(files={"/workspace/a": text})
    result = await run(sandbox, "edit_file", path="a", old_text=old, new_text=new, **arguments)
    return result, sandbox.files["/workspace/a"]


async def test_a_file_is_read_as_text():
    sandbox = FakeSandbox(files={"/workspace/a": "é\n\tb \xff\n".encode("latin-1")})
    assert (await run(sandbox, "read_file", path="a")).output == "\ufffd\n\tb \ufffd\n"


async def test_a_file_is_written_whole():
    sandbox = FakeSandbox()
    result = await run(sandbox, "write_file", path="dir/a", content="é\n")
    assert (result.success, result.output) == (True, "Wrote 3 bytes to dir/a")
    assert sandbox.files == {"/workspace/dir/a": b"\xc3\xa9\n"}
    assert sandbox.modes == {"/workspace/dir/a": 0o644}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("write_file", {"content": "new"}), ("edit_file", {"old_text": "old", "new_text": "new"})],
)
async def test_a_script_stays_executable(name: str, arguments: dict[str, Json]):
    sandbox = FakeSandbox(files={"/workspace/run.sh": b"old"}, modes={"/workspace/run.sh": 0o755})
    await run(sandbox, name, path="run.sh", **arguments)
    assert (sandbox.files, sandbox.modes) == ({"/workspace/run.sh": b"new"}, {"/workspace/run.sh": 0o755})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("read_file", {}), ("edit_file", {"old_text": "a", "new_text": "b"})],
)
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("none", "cannot read 'none': no such file"),
        ("dir", "cannot read 'dir': it is a directory"),
        ("big", "cannot read 'big': 100001 bytes; at most 100000 bytes are possible"),
        (
            "../etc/passwd",
            "cannot read '../etc/passwd': leads out of /workspace (only /workspace can be reached)",
        ),
    ],
)
async def test_what_cannot_be_read_is_named(name: str, arguments: dict[str, Json], path: str, error: str):
    sandbox = FakeSandbox(files={"/workspace/dir/a": b"", "/workspace/big": b"x" * 100_001})
    result = await run(sandbox, name, path=path, **arguments)
    assert (result.success, result.error) == (False, error)


@pytest.mark.parametrize(
    ("path", "size", "error"),
    [
        ("a", 100_001, "cannot write 'a': 100001 bytes, at most 100000 are possible"),
        ("a", 95_000, "cannot write 'a': No space left on device"),
        ("/etc/a", 1, "cannot write '/etc/a': leads out of /workspace (only /workspace can be reached)"),
    ],
)
async def test_what_cannot_be_written_is_named(path: str, size: int, error: str):
    result = await run(FakeSandbox(), "write_file", path=path, content="x" * size)
    assert (result.success, result.error) == (False, error)


async def test_an_edit_replaces_the_only_place():
    result, text = await edit(b"a = 1\r\nb = 1\n", "a = 1", "a = 2")
    assert (result.output, text) == ("Replaced 1 occurrence in a", b"a = 2\r\nb = 1\n")


async def test_an_edit_of_several_places_needs_replace_all():
    result, text = await edit(b"x\ny\nx\nx x x x\n", "x", "z")
    assert "6 times in 'a' (lines 1, 3, 4, 4, 4, ...)" in result.error
    assert text == b"x\ny\nx\nx x x x\n"
    result, text = await edit(b"x\ny\nx\n", "x", "z", replace_all=True)
    assert (result.output, text) == ("Replaced 2 occurrences in a", b"z\ny\nz\n")


@pytest.mark.parametrize(
    ("text", "old", "new", "hint"),
    [
        (b"if a:\n\treturn 1\n", "if a:\n    return 1", "x", "line 1, 'if a:'"),
        (b"abc\n", "xyz", "x", "read the file again"),
        (b"abc\n", " \n", "x", "read the file again"),
        (b"abc\n", "", "x", "old_text is empty"),
        (b"abc\n", "b", "b", "are the same"),
        (b"a\xff\n", "a", "b", "not UTF-8 text (byte 1)"),
    ],
)
async def test_an_edit_that_does_not_fit_changes_nothing_and_says_why(
    text: bytes, old: str, new: str, hint: str
):
    result, after = await edit(text, old, new)
    assert not result.success
    assert hint in result.error
    assert after == text


async def test_new_text_is_taken_literally():
    assert (await edit(b"a", "a", "\\1 \\g<0> $&"))[1] == b"\\1 \\g<0> $&"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_file", {"path": "a"}),
        ("write_file", {"path": "a", "content": ""}),
        ("edit_file", {"path": "a", "old_text": "a", "new_text": "b"}),
    ],
)
async def test_a_sandbox_is_needed_and_a_lost_one_ends_the_rollout(name: str, arguments: dict[str, Json]):
    assert (await run(None, name, **arguments)).error == f"{name} needs a sandbox, and this rollout has none"
    with pytest.raises(SandboxLost):
        await run(FakeSandbox(lost=True), name, **arguments)


def test_only_what_changes_nothing_may_run_beside_others():
    found = {schema.name: schema.parallel for schema in TOOLS.get_schemas()}
    assert found == {"read_file": True, "write_file": False, "edit_file": False}
