import pytest

from atropos_agent.lint.reading import read


def lines(path, data, **limits):
    path.write_bytes(data)
    return [
        (line.number, line.value, [found.code for found in line.findings]) for line in read(path, **limits)
    ]


@pytest.mark.parametrize("ending", [b"", b"\n", b"\n\n", b"\r\n"])
def test_blank_lines_and_a_missing_last_newline_are_no_defects(tmp_path, ending):
    assert lines(tmp_path / "a", b'\n{"a": 1}\n  \n{"b": 2}' + ending) == [
        (2, {"a": 1}, []),
        (4, {"b": 2}, []),
    ]


def test_an_empty_file_has_no_lines(tmp_path):
    assert lines(tmp_path / "a", b"") == []


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_has_not_are_read_and_named(tmp_path, literal):
    ((number, value, codes),) = lines(tmp_path / "a", f'{{"a": {literal}}}\n'.encode())
    assert (number, codes) == (1, ["nan-literal"])
    assert not abs(value["a"]) < float("inf")


def test_a_lone_surrogate_is_read_as_other_writers_wrote_it(tmp_path):
    assert lines(tmp_path / "a", b'{"a": "\\ud800"}\n') == [(1, {"a": "\ud800"}, [])]


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path):
    found = lines(tmp_path / "a", b'{"a": 1}\n' + b"x" * 1000, max_line_bytes=100)
    assert found == [(1, {"a": 1}, []), (2, None, ["unreadable-line"])]
