"""The far side's code as one archive that an interpreter can run without seeing this package's files."""

from __future__ import annotations

import functools
import io
import os
import tempfile
import zipfile
from pathlib import Path
from py_compile import PycInvalidationMode, compile

_PACKAGE = "atropos_agent/sandbox/inside"


@functools.cache
def archive() -> bytes:
    """The bytes of a zip file with a `__main__`.

    The modules are in it compiled, for an interpreter like ours, and as text, for one in a container's image.
    """
    sources = sorted((Path(__file__).parent / "inside").glob("*.py"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file, tempfile.TemporaryDirectory() as scratch:
        for package in ("atropos_agent", "atropos_agent/sandbox"):
            file.writestr(f"{package}/__init__.py", "")
        for source in sources:
            folder = "" if source.name == "__main__.py" else f"{_PACKAGE}/"
            file.writestr(folder + source.name, source.read_bytes())
            file.writestr(f"{folder}{source.stem}.pyc", _compiled(source, Path(scratch, "compiled.pyc")))
    return buffer.getvalue()


def _compiled(source: Path, target: Path) -> bytes:
    """Without docstrings, and never to be held against the source that lies beside it."""
    compile(
        str(source),
        str(target),
        dfile=source.name,
        doraise=True,
        optimize=2,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    return target.read_bytes()


def open_archive() -> int:
    """A descriptor in memory, to be passed to `python -I -S -E /proc/self/fd/N` and closed by the caller."""
    return memory_file("atropos-sandbox", archive())


def memory_file(name: str, content: bytes) -> int:
    """A close-on-exec descriptor of a file that exists nowhere, at its start."""
    descriptor = os.memfd_create(name)
    with open(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
