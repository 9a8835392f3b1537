"""What an agent builds with works in a sandbox: each of these tools that the machine has."""

import shutil

import pytest

pytestmark = pytest.mark.integration

C_PROGRAM = b"""
#include <pthread.h>
#include <stdio.h>
static void *say(void *text) { return (void *)(long)printf("%s\\n", (char *)text); }
int main(void) {
    pthread_t thread;
    return pthread_create(&thread, 0, say, "from a thread") || pthread_join(thread, 0);
}
"""
MAKEFILE = b"program: program.c\n\tcc -O1 -o program program.c -pthread\n"
SOCKETS = b"""
import asyncio
async def main():
    async def serve(reader, writer):
        writer.write(await reader.readline()); await writer.drain(); writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"echo\\n")
    print((await reader.readline()).decode().strip())
asyncio.run(main())
"""
NODE = b"""
const {Worker} = require("worker_threads"), net = require("net");
const server = net.createServer(s => s.end("served")).listen(0, "127.0.0.1", () =>
  net.connect(server.address().port, "127.0.0.1").on("data", text => {
    new Worker("require('worker_threads').parentPort.postMessage('worked')", {eval: true})
      .on("message", word => { console.log(`${text} ${word}`); server.close(); });
  }));
"""
FILES = {"program.c": C_PROGRAM, "Makefile": MAKEFILE, "sockets.py": SOCKETS, "script.js": NODE}
COMMANDS = {
    "gcc": ("gcc -O2 -o p program.c -pthread && ./p", "from a thread"),
    "make": ("make -s && ./program", "from a thread"),
    "git": (
        "git init -q r && cd r && echo 1 > f && git add f"
        " && git -c user.name=a -c user.email=a@b commit -qm one"
        " && git clone -q . ../copy && git -C ../copy log --format=%s",
        "one",
    ),
    "python3": ("/usr/bin/python3 sockets.py", "echo"),
    "node": ("node script.js", "served worked"),
    "perl": ("perl -e 'print join(q( ), map { $_ * 2 } 1..3)'", "2 4 6"),
    "tar": ("tar -czf t.tgz Makefile && tar -tf t.tgz", "Makefile"),
}
SYSTEM = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.parametrize("tool", [tool for tool in COMMANDS if shutil.which(tool, path=SYSTEM)])
async def test_the_tools_of_the_machine_work_in_a_sandbox(sandbox, tool):
    command, expected = COMMANDS[tool]
    await sandbox.write_files(FILES)
    result = await sandbox.exec(command, timeout_s=60)
    assert (result.exit_code, result.stdout.decode().strip()) == (0, expected), result


async def test_a_virtual_environment_can_be_made_and_used(sandbox):
    command = (
        "/usr/bin/python3 -m venv --without-pip venv && venv/bin/python -c"
        " 'import sys, multiprocessing as m; print(sys.prefix); print(m.Pool(2).map(abs, [-1, -2]))'"
    )
    result = await sandbox.exec(command, timeout_s=60)
    assert result.stdout == b"/workspace/venv\n[1, 2]\n", result
