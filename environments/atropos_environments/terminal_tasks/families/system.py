"""Permissions, links, archives, and chores of several steps."""

from __future__ import annotations

import io
import random
import shlex
import tarfile
import zlib

from atropos_environments.terminal_tasks.checks import FileWith, Folder, Gone, GzipOf, LinkTo, ModeIs, TarOf
from atropos_environments.terminal_tasks.families.draft import (
    NUMBER_ONLY,
    decoys,
    family,
    q,
    rows,
    run,
)
from atropos_environments.terminal_tasks.task import Draft, Turn, Wanted
from atropos_environments.terminal_tasks.words import Namer, lines, shown


@family
def change_mode(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A script made executable, a mode in figures, a folder's scripts, a tree's files and folders."""
    path, data = f"{names.stem()}.sh", lines(["#!/bin/sh", "true"])
    files = {path: data} | decoys(rng, names, 1)
    if difficulty == 1:
        asked = rng.choice(
            ("Make {} executable.", "Make it possible to run {}.", "Turn {} into an executable file.")
        )
        return Draft(
            asked.format(shown(path)),
            files,
            run(f"chmod +x {q(path)}"),
            wanted={path: FileWith(data, executable=True)},
        )
    mode = rng.choice((0o600, 0o640, 0o400, 0o444, 0o700, 0o750))
    if difficulty == 2:
        asked = rng.choice(("Set the permissions of {} to {:o}.", "Change the mode of {} to {:o}."))
        prompt, wanted = asked.format(shown(path), mode), {path: ModeIs(mode, data)}
        return Draft(prompt, files, run(f"chmod {mode:o} {q(path)}"), wanted=wanted)
    folder = names.stem()
    places = [f"{folder}/", f"{folder}/{names.stem()}/"]
    tree = {
        f"{rng.choice(places[: 1 if difficulty == 3 else 2])}{names.stem()}{kind}": data
        for kind in (".sh", ".sh", ".txt")
    }
    tree[f"{places[1]}{names.stem()}.sh"] = data
    picked = [path for path in tree if path.endswith(".sh") and (difficulty > 3 or path.count("/") == 1)]
    place = f"{'in' if difficulty == 3 else 'anywhere below'} {shown(folder)}"
    prompt = f"Set the permissions of all .sh files {place} to {mode:o}"
    command = f"chmod {mode:o} {q(folder)}/*.sh"
    if difficulty > 3:
        command = f"find {q(folder)} -type f -name '*.sh' -exec chmod {mode:o} {{}} +"
    wanted = {path: ModeIs(mode, data) for path in picked}
    if difficulty == 5:
        other = [path for path in tree if path not in picked]
        wanted |= {path: ModeIs(0o604, data) for path in other}
        prompt += " and those of all other files there to 604"
        command += f" && find {q(folder)} -type f ! -name '*.sh' -exec chmod 604 {{}} +"
    return Draft(f"{prompt}.", tree, run(command), wanted=wanted)


@family
def make_link(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A symbolic link to a file, to a folder, into a folder, several, one that replaces a file."""
    source, link, folder = names.file(), names.file(), names.stem()
    files = {source: lines(rows(rng, 1))}
    asked = rng.choice(
        (
            "Make a symbolic link {l} to {s}.",
            "Create {l} as a symbolic link to {s}.",
            "Link {l} to {s} symbolically.",
        )
    )
    target = source
    if difficulty == 2:
        target, link = names.stem(), names.stem()
        files = decoys(rng, names, 1, f"{target}/")
    if difficulty >= 3:
        files |= decoys(rng, names, 1, f"{folder}/")
        link, target = f"{folder}/{link}", f"../{source}"
        asked = "In the folder {f}, make a symbolic link {n} to {s}, with a relative target."
    prompt = asked.format(
        l=shown(link),
        s=shown(source if difficulty != 2 else target),
        f=shown(link.split("/")[0]),
        n=shown(link.split("/")[-1]),
    )
    wanted: dict[str, Wanted] = {link: LinkTo(target, any_form=difficulty < 3)}
    command = f"ln -s {'-- ' if target.startswith('-') else ''}{target_q(target)} {q(link)}"
    if difficulty == 4:
        second = f"{folder}/{names.stem()}"
        prompt += (
            f" Make a second one there, {shown(second.split('/')[1])}, that points to the first by its name."
        )
        wanted[second] = LinkTo(link.split("/")[1])
        command += f" && ln -s {target_q(link.split('/')[1])} {q(second)}"
    if difficulty == 5:
        files[link] = lines(rows(rng, 1))
        prompt += " Replace the file that has this name."
        command = f"ln -sf {target_q(target)} {q(link)}"
    return Draft(prompt, files, run(command), wanted=wanted)


def target_q(target: str) -> str:
    """A link's target quoted unchanged: a "./" in front, as `q` adds it, would change the target."""
    return shlex.quote(target)


@family
def pack_archive(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A tar file of a folder, compressed, of one kind of file only, without a sub-folder; gzip."""
    folder = names.stem()
    files = decoys(rng, names, 2, f"{folder}/")
    gzip = difficulty in (2, 4, 5)
    name = names.stem() + (".tar.gz" if gzip else ".tar")
    option = "-czf" if gzip else "-cf"
    inner = f"{folder}/{names.stem()}"
    if difficulty == 3:
        path = next(iter(files))
        keep = rng.random() < 0.5
        prompt = f"Compress {shown(path)} with gzip" + ("; keep the file itself." if keep else ".")
        wanted: dict[str, Wanted] = {f"{path}.gz": GzipOf(files[path])}
        if not keep:
            wanted[path] = Gone()
        return Draft(prompt, files, run(f"gzip {'-k ' if keep else ''}{q(path)}"), wanted=wanted)
    asked = rng.choice(
        ("Pack the folder {f} into the archive {n}.", "Make the tar archive {n} of the folder {f}.")
    )
    prompt = asked.format(f=shown(folder), n=shown(name))
    members, command = dict(files), f"tar {option} {q(name)} {q(folder)}"
    if difficulty == 4:
        files |= decoys(rng, names, 2, f"{inner}/")
        inner_name = shown(inner.split("/")[1])
        prompt = f"Pack the folder {shown(folder)} without its sub-folder {inner_name} into {shown(name)}."
        command = f"tar -czf {q(name)} --exclude={q(inner)} {q(folder)}"
        if any(letter in inner for letter in "*["):  # tar reads an excluded name as a pattern by default
            command = command.replace("--exclude", "--no-wildcards --exclude")
    elif difficulty == 5:
        files |= {f"{inner}/{names.stem()}{kind}": b"x\n" for kind in (".log", ".txt")}
        files |= {f"{folder}/{names.stem()}.log": b"y\n"}
        members = {path: data for path, data in files.items() if path.endswith(".log")}
        prompt = f"Pack all .log files below {shown(folder)}, with their paths from here, into {shown(name)}."
        command = f"find {q(folder)} -type f -name '*.log' -print0 | tar -czf {q(name)} --null -T -"
    members = {path.removeprefix("./"): data for path, data in members.items()}
    return Draft(prompt, files, run(command), wanted={name: TarOf(members, gzip=gzip)})


@family
def unpack_archive(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """An archive here, a gzip file, into a folder, one member only, how many it holds."""
    folder, name = names.stem(), names.stem()
    members = decoys(rng, names, rng.randint(2, 6) if difficulty == 4 else 2, f"{folder}/")
    wanted: dict[str, Wanted] = {path: FileWith(data) for path, data in members.items()}
    if difficulty == 2:
        data, path = lines(rows(rng, 2)), names.file()
        prompt = rng.choice(("Decompress {}.", "Unpack {}.")).format(shown(f"{path}.gz"))
        packed = f"{path}.gz"
        return Draft(
            prompt,
            {packed: _gzip(data)},
            run(f"gunzip {q(packed)}"),
            wanted={path: FileWith(data)},
            may_go=(packed,),
        )
    gzip = difficulty != 1
    name, option = (f"{name}.tar.gz", "-xzf") if gzip else (f"{name}.tar", "-xf")
    files = {name: _gzip(_tar(members)) if gzip else _tar(members)}
    if difficulty == 1:
        prompt = rng.choice(
            ("Unpack {} here.", "Extract the archive {}.", "Extract everything from {}.")
        ).format(shown(name))
        return Draft(prompt, files, run(f"tar {option} {q(name)}"), wanted=wanted)
    target = names.stem()
    if difficulty == 3:
        wanted = {f"{target}/{path}": judged for path, judged in wanted.items()}
        prompt, command = (
            f"Unpack {shown(name)} into a new folder {shown(target)}.",
            f"mkdir {q(target)} && tar -xzf {q(name)} -C {q(target)}",
        )
        return Draft(prompt, files, run(command), wanted=wanted)
    if difficulty == 4:
        prompt = (
            f"How many files does the archive {shown(name)} hold? Do not unpack it. {rng.choice(NUMBER_ONLY)}"
        )
        command = f"tar -tzf {q(name)} | grep -vc '/$'"
        return Draft(prompt, files, run(command), answer=str(len(members)), nothing_else=True)
    path = rng.choice(sorted(members))
    stripped = path.split("/", 1)[1]
    prompt = (
        f"The archive {shown(name)} holds {shown(path)}. Write that file's content to {shown(target)}; "
        "unpack nothing else."
    )
    command = f"tar -xzOf {q(name)} -- {target_q(path)} > {q(target)}"
    judged = FileWith(members[f"{folder}/{stripped}"])
    return Draft(prompt, files, run(command), wanted={target: judged}, nothing_else=True)


@family
def chores(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Several steps in one task: a folder, a move, a line, a mode, an archive."""
    folder, source, text, copy = names.stem(), names.file(), names.word(), names.file()
    data = lines(rows(rng, 2))
    files = {source: data} | decoys(rng, names, 1)
    moved = f"{folder}/{source}"
    steps = [f"make the folder {shown(folder)}", f"move {shown(source)} into it"]
    commands = [f"mkdir {q(folder)}", f"mv {q(source)} {q(folder)}/"]
    wanted: dict[str, Wanted] = {source: Gone(), folder: Folder(), moved: FileWith(data)}
    if difficulty >= 2:
        data += lines([text])
        steps.append(f"append the line {text} to the moved file")
        commands.append(f"echo {text} >> {q(moved)}")
        wanted[moved] = FileWith(data)
    if difficulty >= 3:
        steps.append(f"copy the moved file to {shown(copy)}")
        commands.append(f"cp {q(moved)} {q(copy)}")
        wanted[copy] = FileWith(data)
    if difficulty >= 4:
        steps.append(f"set the mode of {shown(copy)} to 600")
        commands.append(f"chmod 600 {q(copy)}")
        wanted[copy] = ModeIs(0o600, data)
    if difficulty == 5:
        name = f"{names.stem()}.tar"
        steps.append(f"pack {shown(folder)} into the archive {shown(name)}")
        commands.append(f"tar -cf {q(name)} {q(folder)}")
        wanted[name] = TarOf({moved: data})
    opening = rng.choice(("Do this in order: ", "Please, one after the other: ", "Step by step: "))
    return Draft(f"{opening}{'; '.join(steps)}.", files, tuple(map(Turn, commands)), wanted=wanted)


def _tar(members: dict[str, bytes]) -> bytes:
    # A fixed format, and TarInfo's defaults (time 0, root): the same bytes on every machine.
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _gzip(data: bytes) -> bytes:
    """A gzip file in stored blocks: the same bytes with every version of zlib."""
    header = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    blocks = [data[at : at + 65535] for at in range(0, max(len(data), 1), 65535)]
    body = b""
    for number, block in enumerate(blocks, 1):
        size = len(block)
        body += (
            bytes([number == len(blocks)])
            + size.to_bytes(2, "little")
            + (size ^ 0xFFFF).to_bytes(2, "little")
            + block
        )
    return header + body + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
