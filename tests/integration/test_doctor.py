"""`doctor`, as it is typed: a real server with the shipped model, a template, and what is no input."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atropos_agent.policy.embedded import EMBEDDED_MODEL, start_embedded_server
from tests.shipped_model import model_folder
from tests.tokenizers_for_tests import TEMPLATES, tokenizer_for

pytestmark = pytest.mark.integration

COMMAND = str(Path(sys.executable).with_name("atropos-agent"))


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env={**os.environ, **environment},
    )


async def test_a_real_llama_cpp_server_with_the_shipped_model_is_ready():
    server = await start_embedded_server(model_folder() / "model.gguf")
    try:
        address = server.url.replace("http://", "http://me:pass-word@")
        done = doctor(address, "--tokenizer", str(EMBEDDED_MODEL))
        with_key = doctor(server.url, "--tokenizer", str(EMBEDDED_MODEL), ATROPOS_SERVER_API_KEY="sk-secret")
    finally:
        await server.aclose()
    assert done.returncode == 0, done.stdout
    assert "ready: llama.cpp: ids go in, sampled ids and logprobs come out; processed" in done.stdout
    shown = server.url.replace("http://", "http://***@")
    settings = f"--policy.base_url={shown} --policy.tokenizer={EMBEDDED_MODEL}"
    assert f"next: atropos-agent collect CONFIG.yaml {settings}" in done.stdout
    assert "pass-word" not in done.stdout + done.stderr
    assert with_key.returncode == 0
    assert "sk-secret" not in with_key.stdout + with_key.stderr


def test_a_template_that_rewrites_history_is_shown_with_its_facts(tmp_path):
    tokenizer_for("qwen3").save_pretrained(tmp_path)
    done = doctor("--template", str(tmp_path))
    assert done.returncode == 0
    assert "ready: certified for append" in done.stdout
    assert "strips reasoning yes" in done.stdout
    assert "'<|im_end|>'" in done.stdout


def test_a_jinja_file_is_certified_with_the_tokenizer_it_is_for(tmp_path):
    tokenizer_for("chatml").save_pretrained(tmp_path)
    (tmp_path / "mine.jinja").write_text(TEMPLATES["depends_on_text"])
    done = doctor("--template", str(tmp_path / "mine.jinja"), "--tokenizer", str(tmp_path))
    assert done.returncode == 0
    assert "usable with loss: append mode is refused" in done.stdout
    assert "next: --agent.history=template" in done.stdout


def test_a_dead_port_is_exit_1_and_says_what_to_do():
    done = doctor("http://127.0.0.1:9")
    assert done.returncode == 1
    assert "not usable: ServerUnreachable: cannot reach http://127.0.0.1:9" in done.stdout
    assert "next: start the server" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "give either the address of a server, --template SOURCE or --sandbox"),
        (("ftp://host",), "begins with http"),
        (("--template", "mine.jinja"), "needs the tokenizer"),
        (("--template", "./absent"), "no folder"),
        (("--template", "some/folder", "--tokenizer", "other"), "brings its own tokenizer"),
        (("--template", "some/folder", "--model", "other"), "--model names what a server serves"),
    ],
)
def test_what_is_no_input_is_exit_2(arguments, named):
    done = doctor(*arguments)
    assert done.returncode == 2
    assert named in done.stderr


def test_the_sandboxes_of_this_machine_are_shown_and_judged():
    done = doctor("--sandbox", "--backend", "native", SOME_API_KEY="sk-canary-71")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    for word in (
        "user.max_user_namespaces",
        "native: usable",
        "memory",
        "seccomp",
        "1 MiB are allowed",
        "next: ",
    ):
        assert word in done.stdout
    assert "sk-canary-71" not in done.stdout


def test_where_no_sandbox_works_each_refusal_is_told_and_nothing_is_raised():
    script = str(Path("tests/sandbox/no_namespaces.py").resolve())
    command = [sys.executable, script, "--", COMMAND, "doctor", "--sandbox"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (1, "")
    assert "native: refused: " in done.stdout
    assert "bubblewrap: refused: " in done.stdout
    assert "local: UNSAFE" in done.stdout
    assert "not usable: native: " in done.stdout
    assert "next: Remedy: sysctl -w user.max_user_namespaces=15000" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sandbox", "--backend", "nope"], "no sandbox backend 'nope'; there are: auto, native"),
        (["--sandbox", "http://127.0.0.1:9/v1"], "give either"),
        (["--backend", "native", "http://127.0.0.1:9/v1"], "--backend and --image are for --sandbox"),
        (["--sandbox", "--model", "m"], "a sandbox has none"),
    ],
)
def test_wrong_input_about_sandboxes_is_exit_2(arguments, said):
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
