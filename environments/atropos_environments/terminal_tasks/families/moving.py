"""Renaming, moving, copying, deleting, making folders."""

from __future__ import annotations

import random

from atropos_environments.terminal_tasks.checks import FileWith, Folder, Gone
from atropos_environments.terminal_tasks.families.draft import decoys, family, q, rows, run
from atropos_environments.terminal_tasks.task import Draft, Turn, Wanted
from atropos_environments.terminal_tasks.words import Namer, lines, shown


@family
def rename_file(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """One file to another name, into a folder, into a folder that must be made first."""
    source, data = names.file(), lines(rows(rng, 2))
    files = {source: data} | decoys(rng, names, 1)
    if difficulty in (1, 4):
        target = names.file()
        asked = rng.choice(("Rename {} to {}.", "Give {} the new name {}.", "Change the name of {} to {}."))
        command = f"mv {q(source)} {q(target)}"
        directories: tuple[str, ...] = ()
        prompt = asked.format(shown(source), shown(target))
    else:
        folder = names.stem()
        nested = f"{folder}/{names.stem()}" if difficulty == 5 else folder
        target = f"{nested}/{source if difficulty != 5 else names.file()}"
        directories = (folder,) if difficulty == 2 else ()
        note = "" if difficulty == 2 else " The folder does not exist yet."
        asked = rng.choice(("Move {} into the folder {}.", "Put {} into the folder {}."))
        prompt = asked.format(shown(source), shown(nested)) + note
        if difficulty == 5:
            prompt = f"Move {shown(source)} to {shown(target)}; the folders do not exist yet."
        end = f"{q(nested)}/" if difficulty != 5 else q(target)
        command = (
            f"mv {q(source)} {end}" if difficulty == 2 else f"mkdir -p {q(nested)} && mv {q(source)} {end}"
        )
    wanted: dict[str, Wanted] = {source: Gone(), target: FileWith(data)}
    return Draft(prompt, files, run(command), wanted=wanted, directories=directories)


@family
def rename_extension(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """All files of one extension to another one; in a folder, in a tree, with odd names."""
    old, new = rng.sample((".txt", ".log", ".md", ".csv", ".dat"), 2)
    folder = "" if difficulty == 1 else f"{names.stem()}/"
    places = [folder] if difficulty <= 3 else [folder, f"{folder}{names.word()}/", f"{folder}{names.word()}/"]
    count = {1: 2, 2: 3, 3: 5, 4: 5, 5: 7}[difficulty]
    old_files = {f"{rng.choice(places)}{names.stem()}{old}": lines(rows(rng, 1)) for _ in range(count)}
    other = {f"{rng.choice(places)}{names.stem()}{new if difficulty >= 3 else '.sh'}": b"x\n"}
    wanted: dict[str, Wanted] = {path: Gone() for path in old_files}
    wanted |= {path.removesuffix(old) + new: FileWith(data) for path, data in old_files.items()}
    place = (
        "" if difficulty == 1 else f" {'in' if difficulty <= 3 else 'anywhere below'} {shown(folder[:-1])}"
    )
    asked = rng.choice(
        (
            "Rename every {} file{} so that it ends in {} instead.",
            "Change the extension of all {} files{} to {}.",
            "Give all {} files{} the extension {}.",
        )
    )
    if difficulty <= 3:
        where = f"{q(folder[:-1])}/" if folder else ""
        loop = f'for f in {where}*{old}; do mv "$f" "${{f%{old}}}{new}"; done'
    else:
        move = f'mv "$f" "${{f%{old}}}{new}"'
        loop = f"find {q(folder[:-1])} -type f -name '*{old}' -exec sh -c 'for f; do {move}; done' sh {{}} +"
    return Draft(asked.format(old, place, new), old_files | other, run(loop), wanted=wanted)


@family
def copy_file(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A file under another name, into a folder, several files, a whole tree."""
    source, data = names.file(), lines(rows(rng, 2))
    files, target = {source: data}, names.file()
    if difficulty == 1:
        asked = rng.choice(("Copy {} to {}.", "Make a copy of {} named {}.", "Duplicate {} as {}."))
        prompt = asked.format(shown(source), shown(target))
        return Draft(prompt, files, run(f"cp {q(source)} {q(target)}"), wanted={target: FileWith(data)})
    folder = names.stem()
    if difficulty == 2:
        asked = rng.choice(("Copy {} into the folder {}.", "Put a copy of {} into the folder {}."))
        prompt = asked.format(shown(source), shown(folder))
        wanted: dict[str, Wanted] = {f"{folder}/{source}": FileWith(data)}
        return Draft(prompt, files, run(f"cp {q(source)} {q(folder)}/"), wanted=wanted, directories=(folder,))
    if difficulty == 3:
        files = {f"{names.stem()}.txt": lines(rows(rng, 1)) for _ in range(3)} | {f"{names.stem()}.log": data}
        wanted = {f"{folder}/{path}": FileWith(data) for path, data in files.items() if path.endswith(".txt")}
        prompt = f"Copy all .txt files into a new folder {shown(folder)}."
        return Draft(prompt, files, run(f"mkdir {q(folder)} && cp *.txt {q(folder)}/"), wanted=wanted)
    tree = decoys(rng, names, 2, f"{folder}/") | decoys(rng, names, 2, f"{folder}/{names.stem()}/")
    tree |= decoys(rng, names, 1, f"{folder}/.{names.word()}/") if difficulty == 5 else {}
    copy = names.stem()
    wanted = {path.replace(folder, copy, 1): FileWith(data) for path, data in tree.items()}
    prompt = f"Copy the folder {shown(folder)}, with everything in it, to {shown(copy)}."
    return Draft(prompt, tree, run(f"cp -r {q(folder)} {q(copy)}"), wanted=wanted)


@family
def delete_files(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A file, all of one kind, all empty ones, everything but some."""
    folder = names.stem()
    if difficulty == 1:
        path = names.file()
        asked = rng.choice(("Delete the file {}.", "Remove {}.", "Get rid of the file {}."))
        files = {path: lines(rows(rng, 1))} | decoys(rng, names, 2)
        return Draft(asked.format(shown(path)), files, run(f"rm {q(path)}"), wanted={path: Gone()})
    places = [f"{folder}/"] if difficulty == 2 else [f"{folder}/", f"{folder}/{names.word()}/"]
    if difficulty == 5:
        places.append(f"{folder}/.{names.word()}/")
    files = {}
    for place in places:
        files |= {
            f"{place}{names.stem()}{kind}": lines(rows(rng, 1)) for kind in (".log", ".log", ".txt", ".md")
        }
    gone = [path for path in files if path.endswith(".log")]
    asked = rng.choice(("Delete all .log files {}.", "Remove every .log file {}."))
    prompt, command = asked.format(f"in {shown(folder)}"), f"rm {q(folder)}/*.log"
    if difficulty == 3:
        prompt, command = (
            asked.format(f"anywhere below {shown(folder)}"),
            f"find {q(folder)} -name '*.log' -delete",
        )
    if difficulty == 4:
        gone = rng.sample(sorted(files), 3)
        files |= dict.fromkeys(gone, b"")
        prompt = f"Delete every empty file below {shown(folder)}; keep the others."
        command = f"find {q(folder)} -type f -empty -delete"
    if difficulty == 5:
        gone = [path for path in files if not path.endswith(".txt")]
        prompt = (
            f"Below {shown(folder)}, hidden folders included, keep only the .txt files; "
            "delete every other file."
        )
        command = f"find {q(folder)} -type f ! -name '*.txt' -delete"
    return Draft(prompt, files, run(command), wanted={path: Gone() for path in gone})


@family
def make_folders(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A folder, a nested one, several, with a file in it."""
    files, stem = decoys(rng, names, 1), names.stem()
    if difficulty == 1:
        asked = rng.choice(
            ("Create a folder named {}.", "Make the folder {}.", "Make a new folder called {}.")
        )
        return Draft(asked.format(shown(stem)), files, run(f"mkdir {q(stem)}"), wanted={stem: Folder()})
    if difficulty == 2:
        path = f"{stem}/{names.stem()}/{names.stem()}"
        asked = rng.choice(("Create the nested folders {}.", "Make the folder {} with its parents."))
        return Draft(asked.format(shown(path)), files, run(f"mkdir -p {q(path)}"), wanted={path: Folder()})
    folders = [f"{stem}/{names.stem()}" for _ in range(difficulty - 1)]
    wanted: dict[str, Wanted] = {path: Folder() for path in folders}
    prompt = f"In a new folder {shown(stem)}, make the folders " + ", ".join(
        shown(path[len(stem) + 1 :]) for path in folders
    )
    make = f"mkdir -p {' '.join(map(q, folders))}"
    if difficulty == 3:
        return Draft(f"{prompt}.", files, run(make), wanted=wanted)
    empty = [f"{path}/{names.file()}" for path in folders]
    wanted |= {path: FileWith(b"") for path in empty}
    listed = ", ".join(f"{shown(path.rsplit('/', 1)[1])}" for path in empty)
    turns = (Turn(make, "First the folders, then the files."), Turn(f"touch {' '.join(map(q, empty))}"))
    return Draft(
        f"{prompt}, and in each of them one empty file, in this order: {listed}.", files, turns, wanted=wanted
    )
