"""Counting lines, words, bytes, files and matches."""

from __future__ import annotations

import random

from atropos_environments.terminal_tasks.families.draft import (
    NUMBER_ONLY,
    decoys,
    family,
    q,
    rows,
    run,
    sentence,
)
from atropos_environments.terminal_tasks.task import Draft
from atropos_environments.terminal_tasks.words import Namer, lines, shown


@family
def count_lines(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Lines of a file; of all files of a folder; non-empty ones; of a whole tree."""
    only = rng.choice(NUMBER_ONLY)
    if difficulty <= 2:
        path = names.file() if difficulty == 1 else f"{names.stem()}/{names.file()}"
        content = rows(rng, rng.randint(2, 9 * difficulty))
        asked = rng.choice(
            ("How many lines are in {}?", "Count the lines of {}.", "How long is {}, in lines?")
        )
        return Draft(
            f"{asked.format(shown(path))} {only}",
            {path: lines(content)} | decoys(rng, names, 1),
            run(f"wc -l < {q(path)}"),
            answer=str(len(content)),
        )
    if difficulty == 4:
        path = names.file()
        content = [row if rng.random() < 0.7 else "" for row in rows(rng, rng.randint(6, 20))]
        return Draft(
            f"How many lines of {shown(path)} are not empty? {only}",
            {path: lines(["", *content])},
            run(f"grep -c . {q(path)}"),
            answer=str(sum(bool(row) for row in content)),
        )
    folder = names.stem()
    deep = f"{folder}/.{names.word()}/" if difficulty == 5 else f"{folder}/"
    counts = {f"{place}{names.stem()}.txt": rng.randint(1, 6) for place in (f"{folder}/", f"{folder}/", deep)}
    files = {path: lines(rows(rng, count)) for path, count in counts.items()}
    files[f"{folder}/{names.stem()}.log"] = lines(rows(rng, 3))
    where = "in" if difficulty == 3 else "anywhere below (hidden folders too)"
    flat, tree = (
        f"cat {q(folder)}/*.txt | wc -l",
        f"find {q(folder)} -type f -name '*.txt' -exec cat {{}} + | wc -l",
    )
    return Draft(
        f"How many lines do the .txt files {where} {shown(folder)} have together? {only}",
        files,
        run(flat if difficulty == 3 else tree),
        answer=str(sum(counts.values())),
    )


@family
def count_words(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Words of a file, of one line, of a folder; distinct words."""
    path = names.file() if difficulty in (1, 3) else f"{names.stem()}/{names.file()}"
    content = rows(rng, rng.randint(2, 3 + difficulty), 3)
    files = {path: lines(content)} | decoys(rng, names, 1)
    only = rng.choice(NUMBER_ONLY)
    distinct = {word for row in content for word in row.split()}
    if difficulty <= 2:
        asked = rng.choice(
            ("How many words are in {}?", "Count the words of {}.", "What is the word count of {}?")
        )
        prompt, command, answer = (
            asked.format(shown(path)),
            f"wc -w < {q(path)}",
            sum(len(r.split()) for r in content),
        )
    elif difficulty == 3:
        number = rng.randint(1, len(content))
        prompt = f"How many words are in line {number} of {shown(path)}?"
        command, answer = f"sed -n {number}p {q(path)} | wc -w", len(content[number - 1].split())
    elif difficulty == 4:
        prompt = f"How many different words are in {shown(path)}?"
        command, answer = f"tr -s ' ' '\\n' < {q(path)} | sort -u | wc -l", len(distinct)
    else:
        folder = path.split("/")[0]
        other = sentence(rng, 4)
        files[f"{folder}/{names.word()}/{names.file()}"] = lines([other])
        prompt = f"How many different words do all files below {shown(folder)} have together?"
        command = f"find {q(folder)} -type f -exec cat {{}} + | tr -s ' ' '\\n' | sort -u | wc -l"
        answer = len(distinct | set(other.split()))
    return Draft(f"{prompt} {only}", files, run(command), answer=str(answer))


@family
def count_bytes(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Bytes of a file, of two, of a folder, of one kind of file in a tree."""
    only = rng.choice(NUMBER_ONLY)
    if difficulty == 1:
        path, text = names.file(), sentence(rng, rng.randint(1, 5))
        asked = rng.choice(
            ("How many bytes is {}?", "What is the size of {} in bytes?", "Count the bytes of {}.")
        )
        files = {path: text.encode()} | decoys(rng, names, 1)
        return Draft(
            f"{asked.format(shown(path))} {only}", files, run(f"wc -c < {q(path)}"), answer=str(len(text))
        )
    if difficulty == 2:
        pair = {names.file(): sentence(rng, rng.randint(1, 4)).encode() for _ in range(2)}
        one, two = pair
        asked = rng.choice(
            ("How many bytes are {} and {} together?", "What is the total size in bytes of {} and {}?")
        )
        return Draft(
            f"{asked.format(shown(one), shown(two))} {only}",
            pair,
            run(f"cat {q(one)} {q(two)} | wc -c"),
            answer=str(sum(map(len, pair.values()))),
        )
    folder = names.stem()
    depth = {
        3: [""] * 3,
        4: ["", f"{names.stem()}/", f"{names.stem()}/"],
        5: ["", ".cache/", f"{names.stem()}/.x/"],
    }
    files = {f"{folder}/{place}{names.stem()}.log": lines(rows(rng, 2)) for place in depth[difficulty]}
    answer = sum(map(len, files.values()))
    other = {f"{folder}/{names.stem()}.md": lines(rows(rng, 2))} if difficulty > 3 else {}
    if difficulty == 3:
        prompt, command = (
            f"How many bytes do all files in {shown(folder)} have together?",
            f"cat {q(folder)}/* | wc -c",
        )
    else:
        prompt = (
            f"How many bytes do all .log files below {shown(folder)}, hidden folders included, have together?"
        )
        command = f"find {q(folder)} -type f -name '*.log' -exec cat {{}} + | wc -c"
    return Draft(f"{prompt} {only}", files | other, run(command), answer=str(answer))


@family
def count_files(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Entries of a folder, files of one kind, of a tree, hidden ones included."""
    folder, only = names.stem(), rng.choice(NUMBER_ONLY)
    files = decoys(rng, names, rng.randint(2, 7), f"{folder}/")
    if difficulty == 1:
        asked = rng.choice(
            ("How many files are in {}?", "Count the files in the folder {}.", "{} holds how many files?")
        )
        prompt, command, answer = asked.format(shown(folder)), f"ls {q(folder)} | wc -l", len(files)
    elif difficulty == 2:
        extension = rng.choice((".txt", ".log", ".md"))
        files |= {f"{folder}/{names.stem()}{extension}": b"x\n" for _ in range(rng.randint(1, 4))}
        prompt = rng.choice(("How many {} files are in {}?", "Count the {} files of {}.")).format(
            extension, shown(folder)
        )
        command, answer = (
            f"ls {q(folder)}/*{extension} | wc -l",
            sum(path.endswith(extension) for path in files),
        )
    else:
        files |= decoys(rng, names, rng.randint(1, 3), f"{folder}/{names.stem()}/{names.stem()}/")
        if difficulty >= 4:
            files |= decoys(rng, names, 2, f"{folder}/.{names.word()}/")
        hidden = " -not -path '*/.*'" if difficulty == 4 else ""
        note = {3: "", 4: ", leaving out whatever is hidden or in a hidden folder", 5: ", hidden ones too"}[
            difficulty
        ]
        prompt = f"How many files are below {shown(folder)}, at any depth{note}?"
        command = f"find {q(folder)} -type f{hidden} | wc -l"
        answer = sum(difficulty != 4 or "/." not in path for path in files)
    directories = (f"{folder}/{names.stem()}/{names.stem()}.txt",) if difficulty == 5 else ()
    return Draft(f"{prompt} {only}", files, run(command), answer=str(answer), directories=directories)


@family
def count_matches(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Lines with a word, whatever its case; lines without it; occurrences; over a tree."""
    word = names.word()
    path, only = names.file(), rng.choice(NUMBER_ONLY)
    content = [
        row + (f" {word}" if rng.random() < 0.5 else "") for row in rows(rng, rng.randint(3, 6), avoid=word)
    ] + [word]
    prompt = rng.choice(("How many lines of {p} contain {w}?", "In how many lines of {p} does {w} appear?"))
    command, hits = f"grep -c {word} {q(path)}", [word in row for row in content]
    answer = sum(hits)
    if difficulty == 2:
        content = [row.replace(word, rng.choice((word, word.upper()))) for row in content]
        prompt = rng.choice(("{} Upper or lower case does not matter.", "{} Ignore case.")).format(prompt)
        command = f"grep -ci {word} {q(path)}"
    elif difficulty == 3:
        prompt = "How many lines of {p} do not contain {w}?"
        command, answer = f"grep -vc {word} {q(path)}", len(hits) - sum(hits)
        content, answer = [*content, names.word()], answer + 1
    elif difficulty == 4:
        content = [row.replace(word, f"{word} {word}") if rng.random() < 0.5 else row for row in content]
        prompt = "How often does {w} occur in {p}? It may occur several times in a line."
        command, answer = f"grep -o {word} {q(path)} | wc -l", sum(row.count(word) for row in content)
    files = {path: lines(content)}
    if difficulty == 5:
        files = {
            f"{names.stem()}/{place}{path}": lines(content) for place in ("", ".old/", f"{names.stem()}/")
        }
        prompt = "How many lines contain {w} in all files named {p}, at any depth, hidden folders too?"
        command = f"find . -type f -name '{_pattern(path)}' -exec cat {{}} + | grep -c {word}"
        answer *= 3
    return Draft(f"{prompt.format(p=shown(path), w=word)} {only}", files, run(command), answer=str(answer))


def _pattern(name: str) -> str:
    # For -name '...': brackets escape a pattern character, and "?" matches a quote inside the quotes.
    return "".join(
        f"[{letter}]" if letter in "*[" else "[]]" if letter == "]" else "?" if letter == "'" else letter
        for letter in name
    )
