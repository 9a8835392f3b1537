"""Creating files and changing their text, scripts among them."""

from __future__ import annotations

import random
from collections.abc import Mapping

from atropos_environments.terminal_tasks.checks import FileWith
from atropos_environments.terminal_tasks.families.draft import decoys, family, q, rows, run, sentence
from atropos_environments.terminal_tasks.task import BySize, Draft, Turn, Wanted
from atropos_environments.terminal_tasks.words import Namer, lines, shown


@family
def create_file(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A file with one line, with several, in a folder that must be made, several files."""
    path = names.file()
    files = decoys(rng, names, 1)
    if difficulty == 1:
        text = sentence(rng, rng.randint(1, 3))
        asked = rng.choice(
            (
                'Create {} with the text "{}".',
                'Write "{}" to a new file {}.',
                'Make a file {} that says "{}".',
            )
        )
        parts = (text, shown(path)) if asked.startswith("Write") else (shown(path), text)
        command = f"echo {text} > {q(path)}"
        return Draft(asked.format(*parts), files, run(command), wanted={path: FileWith(lines([text]))})
    content = [sentence(rng, rng.randint(1, 2)) for _ in range(difficulty if difficulty < 4 else 2)]
    listed = ", ".join(f'"{row}"' for row in content)
    printed = f"printf '{''.join(row + chr(92) + 'n' for row in content)}'"
    if difficulty >= 3:
        folder = names.stem()
        path = f"{folder}/{path}"
        note, make = " The folder does not exist yet.", f"mkdir -p {q(folder)} && "
    else:
        note, make = "", ""
    asked = rng.choice(("Create {} with these lines: {}.", "Make the file {} with the lines {}."))
    prompt = asked.format(shown(path), listed) + note
    wanted: dict[str, Wanted] = {path: FileWith(lines(content))}
    command = f"{make}{printed} > {q(path)}"
    if difficulty == 5:
        copies = [names.file() for _ in range(2)]
        wanted |= {copy: FileWith(lines(content)) for copy in copies}
        prompt += f" Then make two copies of it here: {shown(copies[0])} and {shown(copies[1])}."
        copy = " && ".join(f"cp {q(path)} {q(copy)}" for copy in copies)
        return Draft(
            prompt, files, (Turn(command, "First the file, then the copies."), Turn(copy)), wanted=wanted
        )
    return Draft(prompt, files, run(command), wanted=wanted)


@family
def add_line(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A line at the end, at the start, at both, after a given one, to every file."""
    path, content, text = names.file(), rows(rng, 2 + difficulty), sentence(rng, 2 if difficulty > 1 else 1)
    files, name = {path: lines(content)}, shown(path)
    if difficulty == 1:
        asked = rng.choice(
            (
                "Append the line {t} to {p}.",
                "Add the line {t} at the end of {p}.",
                "Put {t} as last line into {p}.",
            )
        )
        command, result = f"echo {text} >> {q(path)}", [*content, text]
    elif difficulty == 2:
        asked = rng.choice(
            ('Insert "{t}" as the first line of {p}.', 'Put the line "{t}" at the top of {p}.')
        )
        command, result = f"sed -i '1i {text}' {q(path)}", [text, *content]
    elif difficulty == 3:
        at = rng.randint(1, len(content) - 1)
        asked, result = (
            f'Insert the line "{{t}}" after line {at} of {{p}}.',
            [*content[:at], text, *content[at:]],
        )
        command = f"sed -i '{at}a {text}' {q(path)}"
    elif difficulty == 4:
        mark = names.word()
        content = rows(rng, 6, avoid=mark)
        content.insert(rng.randint(0, len(content)), mark)
        at = content.index(mark) + 1
        files, result = {path: lines(content)}, [*content[:at], text, *content[at:]]
        asked, command = (
            f'Insert the line "{{t}}" after the line {mark} of {{p}}.',
            f"sed -i '/^{mark}$/a {text}' {q(path)}",
        )
    else:
        folder = names.stem()
        files = decoys(rng, names, 3, f"{folder}/")
        wanted = {path: FileWith(data + lines([text])) for path, data in files.items()}
        command = f'for f in {q(folder)}/*; do echo {text} >> "$f"; done'
        return Draft(
            f'Append the line "{text}" to every file in {shown(folder)}.', files, run(command), wanted=wanted
        )
    return Draft(asked.format(t=text, p=name), files, run(command), wanted={path: FileWith(lines(result))})


@family
def replace_text(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A word in a file, in one line only, in all files of a folder or a tree, as a whole word."""
    old, new, path = names.word(), names.word(), names.file()
    content = rng.sample(
        [f"{row} {old}" for row in rows(rng, 2, 1, old)] + rows(rng, 1 + difficulty, 2, old), 3 + difficulty
    )
    result, name = [row.replace(old, new) for row in content], shown(path)
    asked = rng.choice(
        ("Replace {o} by {n} in {p}.", "Change every {o} in {p} to {n}.", "In {p}, replace {o} with {n}.")
    )
    command, files = f"sed -i 's/{old}/{new}/g' {q(path)}", {path: lines(content)}
    if difficulty == 2:
        at = rng.choice([at for at, row in enumerate(content, 1) if old in row])
        result = [
            after if number == at else row
            for number, (row, after) in enumerate(zip(content, result, strict=True), 1)
        ]
        asked = f"In line {at} of {{p}}, and only there, replace {{o}} by {{n}}."
        command = f"sed -i '{at}s/{old}/{new}/' {q(path)}"
    elif difficulty == 4:
        content, result = [*content, f"{old}s"], [*result, f"{old}s"]
        asked, files = (
            "Replace the word {o} by {n} in {p}; leave longer words that contain it.",
            {path: lines(content)},
        )
        command = f"sed -i 's/\\b{old}\\b/{new}/g' {q(path)}"
    if difficulty in (3, 5):
        folder = names.stem()
        sub = f".{names.word()}/" if difficulty == 5 else ""
        files = {
            f"{folder}/{path}": lines(content),
            f"{folder}/{sub}{names.stem()}.txt": lines([old, *content]),
        }
        wanted = {path: FileWith(data.replace(old.encode(), new.encode())) for path, data in files.items()}
        files |= decoys(rng, names, 1, f"{folder}/", old) if difficulty == 3 else {}
        place = f"all files {'in' if difficulty == 3 else 'below'} {shown(folder)}"
        command = f"sed -i 's/{old}/{new}/g' {q(folder)}/*"
        if difficulty == 5:
            place += ", hidden folders included"
            command = f"find {q(folder)} -type f -exec sed -i 's/{old}/{new}/g' {{}} +"
        return Draft(f"Replace {old} by {new} in {place}.", files, run(command), wanted=wanted)
    return Draft(
        asked.format(o=old, n=new, p=name), files, run(command), wanted={path: FileWith(lines(result))}
    )


@family
def delete_lines(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A line by number, lines with a word, a range, empty lines, comments."""
    path, word = names.file(), names.word()
    content = rows(rng, 3 + difficulty)
    at = rng.randint(1, len(content))
    if difficulty == 1:
        asked = rng.choice(("Delete line {} of {}.", "Remove line {} from {}."))
        prompt, command, result = (
            asked.format(at, shown(path)),
            f"sed -i {at}d {q(path)}",
            content[: at - 1] + content[at:],
        )
    elif difficulty == 2:
        content = rng.sample([*content, f"{word} {content[0]}", word], len(content) + 2)
        asked = rng.choice(
            ("Delete every line with {} from {}.", "Remove all lines that contain {} from {}.")
        )
        prompt, command = asked.format(word, shown(path)), f"sed -i /{word}/d {q(path)}"
        result = [row for row in content if word not in row]
    elif difficulty == 3:
        start, end = 2, rng.randint(3, len(content) - 1)
        prompt, command = (
            f"Delete lines {start} to {end} of {shown(path)}.",
            f"sed -i {start},{end}d {q(path)}",
        )
        result = content[: start - 1] + content[end:]
    elif difficulty == 4:
        content = [row for line in content for row in ((line, "") if rng.random() < 0.4 else (line,))] + [
            "",
            word,
        ]
        prompt, command = f"Delete the empty lines of {shown(path)}.", f"sed -i '/^$/d' {q(path)}"
        result = [row for row in content if row]
    else:
        content = [f"# {row}" if rng.random() < 0.4 else row for row in content] + [
            f"  # {word}",
            f"{word} # 1",
            "",
        ]
        prompt = (
            f"Delete the comment lines of {shown(path)} (first character that is no blank: #) "
            "and its empty lines."
        )
        command = f"sed -i -e '/^ *#/d' -e '/^$/d' {q(path)}"
        result = [row for row in content if row and not row.lstrip().startswith("#")]
    return Draft(prompt, {path: lines(content)}, run(command), wanted={path: FileWith(lines(result))})


@family
def write_script(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """An executable script, given line by line; run it; let it use its argument or a loop."""
    path, word = f"{names.stem()}.sh", names.word()
    files, target = decoys(rng, names, 1), f"{names.stem()}.txt"
    body = {
        1: [f"echo {word}"],
        2: [f"echo {word}", f"echo {names.word()}"],
        3: [f"echo {word} > {target}"],
        4: ["for i in 1 2 3; do", f'  echo "{word} $i"', "done"],
        5: ["for f in *; do", '  wc -c < "$f"', "done | sort -n"],
    }[difficulty]
    if difficulty == 3:
        target = f"{names.word()}.txt"
        body = [f"echo {word} > {target}"]
    script = ["#!/bin/sh", *body]
    wanted: dict[str, Wanted | BySize] = {path: FileWith(lines(script), executable=True)}
    write = f"printf '%s\\n' {' '.join(_quoted(row) for row in script)} > {q(path)} && chmod +x {q(path)}"
    asked = rng.choice(
        (
            "Write an executable script {p}. Its lines: {l}",
            "Make the executable script {p} with these lines: {l}",
        )
    )
    listed = "\n".join(script)
    prompt = asked.format(p=shown(path), l="\n" + listed)
    turns = [Turn(write)]
    if difficulty == 3:
        prompt += "\nThen run it once."
        wanted[target] = FileWith(lines([word]))
        turns.append(Turn(q(f"./{path}")))
    if difficulty >= 4:
        prompt += f"\nThen run it once, with its output in {shown(target)}."
        if difficulty == 5:
            # The script may be written with or without a final newline, and it prints its own size.
            whole = len(lines(script))
            wanted[target] = BySize(path, {size: _sizes(files, size) for size in (whole, whole - 1)})
        else:
            wanted[target] = FileWith(lines([f"{word} {i}" for i in (1, 2, 3)]))
        turns.append(Turn(f"{q('./' + path)} > {q(target)}"))
    return Draft(prompt, files, tuple(turns), wanted=wanted)


def _sizes(files: Mapping[str, bytes], script_size: int) -> FileWith:
    """The output of a script that prints all file sizes: those of `files`, its own, and 0 for its output."""
    return FileWith(lines([str(size) for size in sorted([*map(len, files.values()), script_size, 0])]))


def _quoted(row: str) -> str:
    return f"'{row}'"
