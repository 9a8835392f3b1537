"""Finding files by name, content and size."""

from __future__ import annotations

import random

from atropos_environments.terminal_tasks.families.draft import (
    NAME_ONLY,
    PATH_ONLY,
    decoys,
    family,
    q,
    rows,
    run,
    sentence,
)
from atropos_environments.terminal_tasks.task import Draft
from atropos_environments.terminal_tasks.words import Namer, lines, shown


def _folders(names: Namer, count: int, depth: int) -> list[str]:
    return ["/".join(names.word() for _ in range(depth)) for _ in range(count)]


@family
def find_by_name(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Where a file of a given name is, among folders, decoys and folders that carry its name."""
    depth = {1: 1, 2: 1, 3: 2, 4: 3, 5: 3}[difficulty]
    places = _folders(names, min(difficulty + 1, 4), depth)
    if difficulty >= 4:
        places = [f".{place}" for place in places]
    name, home = names.file(), rng.choice(places)
    files = {f"{home}/{name}": lines(rows(rng, 2))}
    for place in places:
        files |= decoys(rng, names, 1, f"{place}/")
    lookalike = tuple(f"{place}/{name}" for place in places if place != home)[:1] if difficulty == 5 else ()
    pattern = name.replace("[", "\\[").replace("*", "\\*")
    asked = rng.choice(
        ("Where is the file {}?", "In which place is {}? Search all folders.", "Find the file {}.")
    )
    kind = " -type f" if difficulty >= 3 else ""
    return Draft(
        f"{asked.format(shown(name))} {rng.choice(PATH_ONLY)}",
        files,
        run(f"find .{kind} -name {q(pattern) if not pattern.startswith('-') else repr(pattern)}"),
        answer=f"{home}/{name}",
        directories=lookalike,
    )


@family
def find_by_content(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Which file holds a word; in a folder, in a tree, as a whole word, without another word."""
    word, folder = names.word(), names.stem()
    files = decoys(rng, names, difficulty + 1, avoid=word)
    if difficulty >= 2:
        files = {f"{folder}/{path}": data for path, data in files.items()}
    if difficulty >= 3:
        files = {f"{names.word()}/{path}": data for path, data in files.items()}
    home = rng.choice(sorted(files))
    files[home] += f"{sentence(rng, 1, word)} {word}\n".encode()
    asked = rng.choice(
        ("Which file contains the word {}?", "Find the file with the word {} in it.", "{} is in which file?")
    )
    prompt = asked.format(word)
    where = (
        ""
        if difficulty == 1
        else f" Look in the folder {shown(folder)}."
        if difficulty == 2
        else " Search all folders."
    )
    command = {1: f"grep -l {word} *", 2: ""}.get(difficulty, f"grep -rl {word} .")
    if difficulty == 2:
        command = f"grep -l {word} {q(folder)}/*"
    if difficulty >= 4:
        trap = rng.choice([path for path in sorted(files) if path != home])
        files[trap] += f"{word}s\n".encode()
        where += " As a word of its own, not as a part of a longer one."
        command = f"grep -rlw {word} ."
    if difficulty == 5:
        hidden = f".{names.word()}/{names.file()}"
        files[hidden] = files.pop(home)
        home = hidden
    only = rng.choice(NAME_ONLY if difficulty == 1 else PATH_ONLY)
    return Draft(f"{prompt}{where} {only}", files, run(command), answer=home)


@family
def find_by_size(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """The largest or smallest file of a folder or a tree; all files above a size."""
    count = difficulty + 2
    sizes = rng.sample(range(3, 90 if difficulty < 3 else 3000), count)
    folder = names.stem()
    deep = [f"{folder}/{names.word()}/" for _ in range(2)] if difficulty >= 3 else [f"{folder}/"]
    if difficulty == 5:
        deep[0] = f"{folder}/.{names.word()}/"
    if difficulty == 1:
        deep = [""]
    files = {f"{rng.choice(deep)}{names.file()}": b"x" * (size - 1) + b"\n" for size in sizes}
    by_size = sorted(files, key=lambda path: len(files[path]))
    place = "here" if difficulty == 1 else f"{'in' if difficulty == 2 else 'anywhere below'} {shown(folder)}"
    if difficulty == 4:
        limit = sorted(sizes)[-2] - 1
        return Draft(
            f"Which files {place} are larger than {limit} bytes? Answer with their paths, one per line.",
            files,
            run(f"find {q(folder)} -type f -size +{limit}c"),
            answer="\n".join(path for path in files if len(files[path]) > limit),
            answer_is_list=True,
        )
    largest = rng.random() < 0.6
    asked = rng.choice(("Which is the {} file {}?", "Find the {} file {}."))
    prompt = asked.format(("largest" if largest else "smallest"), place)
    answer = by_size[-1 if largest else 0]
    if difficulty <= 2:
        option = "-S" if largest else "-Sr"
        command = f"ls {option} | head -n 1" if difficulty == 1 else f"ls {option} {q(folder)} | head -n 1"
        return Draft(
            f"{prompt} {rng.choice(NAME_ONLY)}", files, run(command), answer=answer.rsplit("/", 1)[-1]
        )
    end = "tail" if largest else "head"
    command = f"find {q(folder)} -type f -printf '%s %p\\n' | sort -n | {end} -n 1 | cut -d' ' -f2-"
    note = " Hidden files and folders count." if difficulty == 5 else ""
    return Draft(f"{prompt}{note} {rng.choice(PATH_ONLY)}", files, run(command), answer=answer)
