"""Tables and JSON with standard tools: columns, sums, look-ups, values."""

from __future__ import annotations

import json
import random

from atropos_environments.terminal_tasks.checks import FileWith, JsonIs
from atropos_environments.terminal_tasks.families.draft import (
    NUMBER_ONLY,
    TEXT_ONLY,
    family,
    q,
    run,
    sentence,
)
from atropos_environments.terminal_tasks.task import Draft
from atropos_environments.terminal_tasks.words import Namer, lines, shown


def _table(rng: random.Random, names: Namer, count: int, top: int = 20) -> list[tuple[str, str, int]]:
    groups = names.words(2)
    return [(names.word(), rng.choice(groups), rng.randint(1, top)) for _ in range(count)]


@family
def extract_column(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A column by number, with another separator, without its header, of some rows only."""
    source, target = f"{names.stem()}.csv", f"{names.stem()}.txt"
    separator = "," if difficulty in (1, 3, 5) else rng.choice((";", ":"))
    table = _table(rng, names, rng.randint(2, 3 + difficulty))
    header = ["name", "group", "size"]
    body = [[str(value) for value in row] for row in table]
    has_header = difficulty >= 3
    column = rng.randint(1, 3)
    picked = [row[column - 1] for row in body]
    asked = rng.choice(
        (
            "Write column {c} of {s} to {t}.",
            "Save column {c} of {s} in {t}.",
            "Put column {c} of {s} into {t}.",
        )
    )
    prompt = asked.format(c=column, s=shown(source), t=shown(target))
    option = f"-d{separator}" if separator != ";" else "-d';'"
    command = f"cut {option} -f{column} {q(source)} > {q(target)}"
    if difficulty == 2:
        prompt += f" Its columns are separated by '{separator}'."
    if difficulty in (3, 4):
        prompt += (
            " Leave out the header line."
            if difficulty == 3
            else f" Leave out the header line; the separator is '{separator}'."
        )
        command = f"tail -n +2 {q(source)} | cut {option} -f{column} > {q(target)}"
    if difficulty == 5:
        group = rng.choice(table)[1]
        picked = [row[0] for row in table if row[1] == group]
        prompt = (
            f"{shown(source)} has a header line. Write the name of every row whose group is {group} "
            f"to {shown(target)}, one per line."
        )
        command = f"awk -F, 'NR > 1 && $2 == \"{group}\" {{print $1}}' {q(source)} > {q(target)}"
    rows = ([header] if has_header else []) + body
    files = {source: lines([separator.join(row) for row in rows])}
    return Draft(prompt, files, run(command), wanted={target: FileWith(lines(picked))})


@family
def sum_column(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """The sum of a column, of some rows, its largest value, its mean, the group with the largest sum."""
    source = f"{names.stem()}.csv"
    table = _table(rng, names, rng.randint(2, 2 + 2 * difficulty), 9 if difficulty == 1 else 60)
    values = [size for _, _, size in table]
    body = [f"{name},{size}" if difficulty == 1 else f"{name},{group},{size}" for name, group, size in table]
    files = {source: lines(body if difficulty == 1 else ["name,group,size", *body])}
    group = rng.choice(table)[1]
    only, path = rng.choice(NUMBER_ONLY), shown(source)
    in_group = [size for _, place, size in table if place == group]
    if difficulty == 1:
        asked = rng.choice(
            ("What is the sum of column 2 of {}?", "Add up column 2 of {}.", "Sum the second column of {}.")
        )
        prompt, answer = asked.format(path), str(sum(values))
        program = "{s += $2} END {print s}"
    elif difficulty == 2:
        asked = rng.choice(
            ("What is the sum of the size column (3) of {}?", "Add up the sizes (column 3) of {}.")
        )
        prompt, answer = asked.format(path), str(sum(values))
        program = "NR > 1 {s += $3} END {print s}"
    elif difficulty == 3:
        prompt, answer = (
            f"What do the sizes (column 3) of group {group} (column 2) in {path} add up to?",
            str(sum(in_group)),
        )
        program = f'$2 == "{group}" {{s += $3}} END {{print s}}'
    elif difficulty == 4:
        prompt, answer = (
            f"What is the largest size (column 3) of group {group} (column 2) in {path}?",
            str(max(in_group)),
        )
        program = f'$2 == "{group}" && $3 > m {{m = $3}} END {{print m + 0}}'
    else:
        prompt = (
            f"What is the mean size (column 3) of group {group} (column 2) in {path}, cut to whole numbers?"
        )
        answer, program = (
            str(sum(in_group) // len(in_group)),
            f'$2 == "{group}" {{s += $3; n++}} END {{print int(s / n)}}',
        )
    return Draft(f"{prompt} {only}", files, run(f"awk -F, '{program}' {q(source)}"), answer=answer)


@family
def look_up(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A value by its key; by a column; from another file; the key of the largest value."""
    source = f"{names.stem()}.csv"
    table = _table(rng, names, rng.randint(2, 3 + difficulty), 90)
    name, group, size = rng.choice(table)
    only, path = rng.choice(TEXT_ONLY), shown(source)
    header = ["name,group,size"] if difficulty > 1 else []
    files = {source: lines(header + [f"{a},{c}" if difficulty == 1 else f"{a},{b},{c}" for a, b, c in table])}
    if difficulty == 1:
        asked = rng.choice(("What number belongs to {n} in {p}?", "Which number is next to {n} in {p}?"))
        prompt, answer, command = (
            asked.format(n=name, p=path),
            str(size),
            f"grep ^{name}, {q(source)} | cut -d, -f2",
        )
    elif difficulty in (2, 3):
        column, word, answer = (2, "group", group) if difficulty == 2 else (3, "size", str(size))
        asked = rng.choice(("What is the {w} of {n} in {p}?", "Look up the {w} of {n} in {p}."))
        prompt, command = (
            asked.format(w=word, n=name, p=path),
            f"grep ^{name}, {q(source)} | cut -d, -f{column}",
        )
    elif difficulty == 4:
        sizes = rng.sample(range(10, 99), len(table))
        files[source] = lines(
            header + [f"{a},{b},{size}" for (a, b, _), size in zip(table, sizes, strict=True)]
        )
        answer = table[sizes.index(max(sizes))][0]
        prompt = f"Which name in {path} has the largest size (column 3)?"
        command = f"tail -n +2 {q(source)} | sort -t, -k3 -n | tail -n 1 | cut -d, -f1"
    else:
        other, code = (
            f"{names.stem()}.csv",
            {place: rng.randint(100, 999) for place in sorted({row[1] for row in table})},
        )
        files[other] = lines([f"{place};{number}" for place, number in sorted(code.items())])
        prompt = (
            f"{path} gives each name its group, {shown(other)} each group its number. "
            f"What is the number of {name}?"
        )
        answer = str(code[group])
        command = f"g=$(grep ^{name}, {q(source)} | cut -d, -f2) && grep \"^$g;\" {q(other)} | cut -d';' -f2"
    return Draft(f"{prompt} {only}", files, run(command), answer=answer)


@family
def json_value(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """A number or text of a JSON file, of one record of many, changing one."""
    source = f"{names.stem()}.json"
    numbers = {key: rng.randint(1, 99) for key in names.words(3)}
    texts = {key: names.word() for key in names.words(2)}
    key, number = rng.choice(sorted(numbers.items()))
    only, path = rng.choice(TEXT_ONLY), shown(source)
    asked = rng.choice(
        ("What is the value of {k} in {p}?", "Which value has {k} in {p}?", "Read {k} from {p}.")
    )
    record = dict(rng.sample(sorted((numbers | texts).items()), 5))
    files = {source: (json.dumps(record, indent=2) + "\n").encode()}
    if difficulty == 1:
        command = f"grep -o '\"{key}\": [0-9]*' {q(source)} | cut -d' ' -f2"
        return Draft(f"{asked.format(k=key, p=path)} {only}", files, run(command), answer=str(number))
    if difficulty == 2:
        key, text = rng.choice(sorted(texts.items()))
        command = f"grep '\"{key}\"' {q(source)} | cut -d'\"' -f4"
        return Draft(f"{asked.format(k=key, p=path)} {only}", files, run(command), answer=text)
    if difficulty == 3:
        new = rng.randint(100, 999)
        prompt = rng.choice(("In {p}, set {k} to {n}.", "Change the value of {k} in {p} to {n}."))
        command = f'sed -i \'s/"{key}": [0-9]*/"{key}": {new}/\' {q(source)}'
        wanted = {source: JsonIs(record | {key: new})}
        return Draft(prompt.format(p=path, k=key, n=new), files, run(command), wanted=wanted)
    people = [
        {"name": names.word(), "age": rng.randint(10, 80), "team": rng.choice(("red", "blue"))}
        for _ in range(6)
    ]
    files = {source: lines([json.dumps(person) for person in people])}
    chosen = rng.choice(people)
    if difficulty == 4:
        prompt = f"{path} holds one JSON object per line. What is the age of {chosen['name']}?"
        command = f'grep \'"name": "{chosen["name"]}"\' {q(source)} | sed \'s/.*"age": \\([0-9]*\\).*/\\1/\''
        return Draft(f"{prompt} {only}", files, run(command), answer=str(chosen["age"]))
    team = str(chosen["team"])
    total = sum(int(person["age"]) for person in people if person["team"] == team)
    prompt = f"{path} holds one JSON object per line. What do the ages of team {team} add up to?"
    pick = f'grep \'"team": "{team}"\' {q(source)} | sed \'s/.*"age": \\([0-9]*\\).*/\\1/\''
    return Draft(
        f"{prompt} {only}", files, run(f"{pick} | awk '{{s += $1}} END {{print s}}'"), answer=str(total)
    )


@family
def field_of_line(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """One word of a line, counted from the front or the back, of the line that holds a word."""
    path = names.file()
    content = [
        sentence(rng, rng.randint(4, 4 + difficulty)) for _ in range(1 if difficulty == 1 else 2 + difficulty)
    ]
    number, column = rng.randint(1, len(content)), rng.randint(1, 4)
    words, only = content[number - 1].split(), rng.choice(TEXT_ONLY)
    if difficulty == 1:
        asked = rng.choice(("What is word {c} of {p}?", "Which word of {p} is number {c}?"))
        prompt, command = asked.format(c=column, p=shown(path)), f"cut -d' ' -f{column} {q(path)}"
        answer = words[column - 1]
    elif difficulty == 2:
        asked = rng.choice(("What is word {c} of line {n} of {p}?", "Give word {c} of line {n} of {p}."))
        prompt = asked.format(c=column, n=number, p=shown(path))
        command, answer = f"sed -n {number}p {q(path)} | cut -d' ' -f{column}", words[column - 1]
    elif difficulty == 3:
        prompt = f"What is the last word of line {number} of {shown(path)}?"
        command, answer = f"sed -n {number}p {q(path)} | awk '{{print $NF}}'", words[-1]
    else:
        mark = names.word()
        content = [sentence(rng, len(row.split()), mark) for row in content]
        words = content[number - 1].split()
        content[number - 1] = f"{mark} {content[number - 1]}"
        back = difficulty - 3
        prompt = (
            f"In {shown(path)}, one line starts with {mark}. "
            f"What is word {back + 1} of that line, counted from its end?"
        )
        command, answer = f"grep '^{mark} ' {q(path)} | awk '{{print $(NF - {back})}}'", words[-1 - back]
    return Draft(f"{prompt} {only}", {path: lines(content)}, run(command), answer=answer)
