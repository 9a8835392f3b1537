"""Lines of text: picking, sorting, de-duplicating, comparing."""

from __future__ import annotations

import random
from collections import Counter

from atropos_environments.terminal_tasks.checks import FileWith
from atropos_environments.terminal_tasks.families.draft import (
    NUMBER_ONLY,
    TEXT_ONLY,
    family,
    q,
    rows,
    run,
)
from atropos_environments.terminal_tasks.task import Draft
from atropos_environments.terminal_tasks.words import LEXICON, Namer, lines, shown


def _distinct(rng: random.Random, count: int, most: int = 1) -> list[str]:
    picked = rng.sample(LEXICON, count * most)
    return [" ".join(picked[at * most : (at + 1) * most]) for at in range(count)]


@family
def nth_line(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """The first, last or n-th line; a range into a file; the line after a given one."""
    path, only = names.file(), rng.choice(TEXT_ONLY)
    content = _distinct(rng, 3 + 2 * difficulty, 1 if difficulty == 1 else 2)
    files, number = {path: lines(content)}, rng.randint(2, 2 + 2 * difficulty)
    if difficulty == 1:
        first = rng.random() < 0.5
        asked = rng.choice(
            ("What is the {} line of {}?", "Show the {} line of {}.", "Read the {} line of {}.")
        )
        prompt, answer = asked.format("first" if first else "last", shown(path)), content[0 if first else -1]
        command = f"{'head' if first else 'tail'} -n 1 {q(path)}"
    elif difficulty == 2:
        asked = rng.choice(("What is line {} of {}?", "Show line {} of {}.", "Read line {} of {}."))
        prompt, answer, command = (
            asked.format(number, shown(path)),
            content[number - 1],
            f"sed -n {number}p {q(path)}",
        )
    elif difficulty == 4:
        prompt = f"What is line {number} of {shown(path)}, counted from its end?"
        command, answer = f"tail -n {number} {q(path)} | head -n 1", content[-number]
    elif difficulty == 5:
        prompt = f'Which line comes right after the line "{content[number - 2]}" in {shown(path)}?'
        command, answer = f"grep -x -A 1 '{content[number - 2]}' {q(path)} | tail -n 1", content[number - 1]
    else:
        target = names.file()
        asked = rng.choice(
            ("Write lines {} to {} of {} to {}.", "Copy lines {} to {} of {} into the file {}.")
        )
        prompt = asked.format(2, number + 1, shown(path), shown(target))
        command = f"sed -n 2,{number + 1}p {q(path)} > {q(target)}"
        return Draft(prompt, files, run(command), wanted={target: FileWith(lines(content[1 : number + 1]))})
    return Draft(f"{prompt} {only}", files, run(command), answer=answer)


@family
def sort_lines(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Words or numbers into another file or in place, downwards, by a column."""
    path, target = names.file(), names.file()
    content = _distinct(rng, 3 + difficulty)
    numbers = [str(number) for number in rng.sample(range(1, 400), 4 + difficulty)]
    if difficulty in (1, 2):
        content = content if difficulty == 1 else numbers
        key, option = (str, "") if difficulty == 1 else (int, " -n")
        asked = rng.choice(("Sort the {w} of {p} into {t}.", "Write the {w} of {p}, sorted, to {t}."))
        prompt = asked.format(w="lines" if difficulty == 1 else "numbers", p=shown(path), t=shown(target))
        command = f"sort{option} {q(path)} > {q(target)}"
        return Draft(
            prompt,
            {path: lines(content)},
            run(command),
            wanted={target: FileWith(lines(sorted(content, key=key)))},
        )
    if difficulty == 3:
        numeric = rng.random() < 0.5
        content = numbers if numeric else content
        wanted = sorted(content, key=int if numeric else str, reverse=True)
        what = "numbers of {}, largest first" if numeric else "lines of {}, from z to a"
        prompt = f"Sort the {what.format(shown(path))}, in place."
        command = f"sort -{'n' if numeric else ''}r -o {q(path)} {q(path)}"
    else:
        content = [f"{word} {number}" for word, number in zip(content, numbers, strict=False)]
        wanted = sorted(content, key=lambda row: int(row.split()[1]), reverse=difficulty == 5)
        order = "smallest" if difficulty == 4 else "largest"
        prompt = f"Sort the lines of {shown(path)} by the number in column 2, {order} first, in place."
        command = f"sort -k2 -n{'r' if difficulty == 5 else ''} -o {q(path)} {q(path)}"
    if wanted == content:  # a file that is sorted already would be right without any work
        content = wanted[::-1]
    return Draft(prompt, {path: lines(content)}, run(command), wanted={path: FileWith(lines(wanted))})


@family
def unique_lines(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Distinct lines into a file, their number, the most frequent one, those that occur once."""
    path, target = names.file(), names.file()
    pool = _distinct(rng, rng.randint(3, 7) if difficulty == 2 else 2 + difficulty)
    content = rng.sample(pool * 2 + [pool[0]] * 2, len(pool) * 2 + 2)
    once = _distinct(rng, 1, 3)
    only, files = rng.choice(NUMBER_ONLY), {path: lines(content)}
    if difficulty == 1:
        asked = rng.choice(
            ("Write the distinct lines of {}, sorted, to {}.", "Sort {} without duplicates into {}.")
        )
        wanted = {target: FileWith(lines(sorted(set(content))))}
        return Draft(
            asked.format(shown(path), shown(target)),
            files,
            run(f"sort -u {q(path)} > {q(target)}"),
            wanted=wanted,
        )
    if difficulty == 2:
        asked = rng.choice(("How many different lines are in {}?", "How many distinct lines does {} have?"))
        prompt, command, answer = asked.format(shown(path)), f"sort -u {q(path)} | wc -l", str(len(pool))
    elif difficulty == 3:
        only = rng.choice(TEXT_ONLY)
        prompt, answer = (
            f"Which line occurs most often in {shown(path)}?",
            Counter(content).most_common(1)[0][0],
        )
        command = f"sort {q(path)} | uniq -c | sort -n | tail -n 1 | awk '{{print $2}}'"
    elif difficulty == 4:
        only, files = rng.choice(TEXT_ONLY), {path: lines([*content[:4], *once, *content[4:]])}
        content = files[path].decode().splitlines()
        pool_once = [row for row in content if content.count(row) == 1]
        content = [row for row in content if row not in pool_once[1:]]
        files = {path: lines(content)}
        prompt, answer = f"Which line occurs exactly once in {shown(path)}?", pool_once[0]
        command = f"sort {q(path)} | uniq -u"
    else:
        wanted = {path: FileWith(lines(list(dict.fromkeys(content))))}
        prompt = (
            f"Remove repeated lines from {shown(path)}, in place: "
            "keep the first of each, in the present order."
        )
        command = f"awk '!seen[$0]++' {q(path)} > .tmp && cat .tmp > {q(path)} && rm .tmp"
        return Draft(prompt, files, run(command), wanted=wanted)
    return Draft(f"{prompt} {only}", files, run(command), answer=answer)


@family
def compare_files(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """The line that only one of two files has; how many they share; what changed."""
    one, two = names.file(), names.file()
    shared = sorted(_distinct(rng, 3 + difficulty))
    extra, third = [word for word in rng.sample(LEXICON, 20) if word not in shared][:2]
    first, second = sorted([*shared, extra]), list(shared)
    only = rng.choice(TEXT_ONLY)
    if difficulty == 1:
        asked = rng.choice(("Which line of {} is not in {}?", "Which line is in {} but not in {}?"))
        prompt, answer, command = asked.format(shown(one), shown(two)), extra, f"comm -23 {q(one)} {q(two)}"
    elif difficulty == 2:
        first, second = rng.sample(first, len(first)), rng.sample(second, len(second))
        prompt = f"Which line of {shown(one)} is not in {shown(two)}? They are not sorted."
        answer, command = extra, f"grep -vxFf {q(two)} {q(one)}"
    elif difficulty == 3:
        common, only = rng.randint(1, len(shared)), rng.choice(NUMBER_ONLY)
        second = sorted([*rng.sample(shared, common), third])
        prompt = f"How many lines do {shown(one)} and {shown(two)} have in common?"
        answer, command = str(common), f"comm -12 {q(one)} {q(two)} | wc -l"
    elif difficulty == 4:
        at = rng.randrange(len(shared))
        first = rng.sample(shared, len(shared))
        second = [third if row == first[at] else row for row in first]
        prompt = f"{shown(one)} and {shown(two)} differ in one line. What is its number?"
        only, answer = rng.choice(NUMBER_ONLY), str(at + 1)
        command = f"diff {q(one)} {q(two)} | head -n 1 | cut -dc -f1"
    else:
        first, second = rng.sample(first, len(first)), [*rng.sample(shared, len(shared)), third]
        target = names.file()
        prompt = (
            f"Write the lines that only one of {shown(one)} and {shown(two)} has to {shown(target)}, sorted."
        )
        command = f"sort {q(one)} {q(two)} | uniq -u > {q(target)}"
        wanted = {target: FileWith(lines(sorted((extra, third))))}
        return Draft(prompt, {one: lines(first), two: lines(second)}, run(command), wanted=wanted)
    return Draft(f"{prompt} {only}", {one: lines(first), two: lines(second)}, run(command), answer=answer)


@family
def reverse_lines(rng: random.Random, names: Namer, difficulty: int) -> Draft:
    """Lines from last to first, joined, numbered, columns swapped, upper case."""
    path, target = names.file(), names.file()
    content = rows(rng, 2 + difficulty, 1)
    asked = rng.choice(("Write the lines of {p} {h} to {t}.", "Save the lines of {p} {h} in {t}."))
    if difficulty == 1:
        how, command, result = "in reverse order", f"tac {q(path)}", content[::-1]
    elif difficulty == 2:
        how, command, result = "in upper case", f"tr a-z A-Z < {q(path)}", [row.upper() for row in content]
    elif difficulty == 3:
        how, command, result = "joined by commas into one line", f"paste -sd, {q(path)}", [",".join(content)]
    elif difficulty == 4:
        content = _distinct(rng, 5, 2)
        how, command = "with their two words swapped", f"awk '{{print $2, $1}}' {q(path)}"
        result = [" ".join(row.split()[::-1]) for row in content]
    else:
        how, command = 'numbered from 1, as "1: text",', f"awk '{{print NR \": \" $0}}' {q(path)}"
        result = [f"{at}: {row}" for at, row in enumerate(content, 1)]
    prompt = asked.format(p=shown(path), h=how, t=shown(target))
    return Draft(
        prompt,
        {path: lines(content)},
        run(f"{command} > {q(target)}"),
        wanted={target: FileWith(lines(result))},
    )
