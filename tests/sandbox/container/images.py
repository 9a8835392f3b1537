"""Container images without a network: made of this machine's own programs."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

SHELL = ("sh",)
COMMANDS = (
    *("bash", "cat", "chmod", "cut", "df", "du", "echo", "env", "head", "id", "kill", "ln", "ls", "mkdir"),
    *("mv", "rm", "seq", "sleep", "tail", "touch", "true", "wc"),
)
PYTHON = Path("/usr/bin/python3").resolve()
LEFT_OUT = {"test", "__pycache__", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "tkinter"}


def pack(path, programs, *, python=True, extra=None):
    """A tar file with `programs`, a python3, and `extra`, further executables by path, as text."""
    with tarfile.open(path, "w") as archive:
        for link in ("bin", "lib", "lib64"):
            _add_link(archive, link, f"usr/{link}")
        _add_programs(archive, programs, python=python)
        for place, text in (extra or {}).items():
            _add_text(archive, place, text)
    return path


def _add_programs(archive, programs, *, python):
    found = {Path(place) for name in programs if (place := shutil.which(name, path="/usr/bin"))}
    modules = {file for file in Path("/usr/lib", PYTHON.name).rglob("*") if python and _wanted(file)}
    binaries = {file.resolve() for file in found | ({PYTHON} if python else set())}
    linked = subprocess.run(
        ["ldd", *binaries, *(file for file in modules if file.suffix == ".so")],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    words = {word for word in linked.split() if word.startswith("/") and not word.endswith(":")}
    contents = {file: file for file in binaries | modules}
    contents |= {Path("/usr", word.removeprefix("/usr").lstrip("/")): Path(word).resolve() for word in words}
    for directory in sorted({parent for file in contents for parent in file.parents if parent.name}):
        archive.add(directory, str(directory), recursive=False)
    for file, source in contents.items():
        archive.add(source, str(file))
    for file in found - binaries:
        _add_link(archive, f"usr/bin/{file.name}", str(file.resolve()))
    if python:
        _add_link(archive, "usr/bin/python3", PYTHON.name)


def _wanted(file):
    inside = set(file.parts)
    config = any(part.startswith("config-") for part in file.parts)
    return file.is_file() and not config and not inside & LEFT_OUT


def _add_link(archive, name, target):
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    archive.addfile(link)


def _add_text(archive, name, text):
    file = tarfile.TarInfo(name)
    file.size, file.mode = len(text.encode()), 0o755
    archive.addfile(file, io.BytesIO(text.encode()))
