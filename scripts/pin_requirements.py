"""Write requirements/dev.txt: exact versions of everything that `make` installs, for each given interpreter.

    python scripts/pin_requirements.py python3.11 python3.13

Each interpreter, oldest first, installs the project with its development group into a fresh environment. A
package that they resolve to different versions, or that only some of them need, gets a line with a marker.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

TARGET = Path("requirements/dev.txt")
HEADER = "# Written by `make pins`: what `make` installs, tried on Python {}.\n"
PIN = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+")


def resolved(interpreter: str) -> tuple[str, dict[str, str]]:
    """The version of `interpreter`, e.g. "3.13", and that of each package in a fresh environment of it."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        pip = [python, "-m", "pip", "--quiet"]
        subprocess.run([*pip, "install", "--upgrade", "pip>=25.1"], check=True)
        subprocess.run([*pip, "install", "--editable", ".[local]", "--group", "dev"], check=True)
        shown = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.run([python, "-c", shown], check=True, capture_output=True, text=True).stdout
        frozen = subprocess.run(
            [*pip, "freeze", "--exclude-editable"], check=True, capture_output=True, text=True
        ).stdout.split("\n")
    return version.strip(), pinned([line for line in frozen if line])


def pinned(frozen: Sequence[str]) -> dict[str, str]:
    """The version of each package. Raises ValueError for one that comes from an address or a path."""
    for line in frozen:
        if not PIN.fullmatch(line):
            raise ValueError(f"{line!r} is not name==version; install it from a package index and run again")
    return dict(sorted((line.split("==") for line in frozen), key=lambda pin: pin[0].lower()))


def merged(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The lines of the file; `found` holds the pins of each Python version, oldest first."""
    versions = list(found)
    lines = list[str]()
    for name in sorted({name for pins in found.values() for name in pins}, key=str.lower):
        wanted = {version: pins.get(name) for version, pins in found.items()}
        if len(set(wanted.values())) == 1:
            lines.append(f"{name}=={wanted[versions[0]]}")
            continue
        for index, (version, pin) in enumerate(wanted.items()):
            bounds = [f'python_version >= "{version}"'] if index else []
            bounds += [f'python_version < "{later}"' for later in versions[index + 1 : index + 2]]
            if pin is not None:
                lines.append(f"{name}=={pin} ; {' and '.join(bounds)}")
    return lines


def main() -> None:
    """Resolve for each interpreter on the command line, and write the file."""
    found = dict(resolved(interpreter) for interpreter in sys.argv[1:])
    if not found:
        raise SystemExit(f"{__doc__}")
    lines = merged(found)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(HEADER.format(" and ".join(found)) + "\n".join(lines) + "\n")
    print(f"{TARGET}: {len(lines)} pins")


if __name__ == "__main__":
    main()
