"""YAML is read so that it means the same here and to kubectl, and every place has its line."""

import pytest

from waypost_config.reader import MAX_ERRORS, MAX_NODES, documents
from waypost_config.writer import dump


def data(text: str) -> object:
    (document,) = documents("f.yaml", text)
    assert document.errors == ()
    return document.data


def errors(text: str) -> list[tuple[int, str]]:
    return [(error.line, error.message) for document in documents("f.yaml", text) for error in document.errors]


def test_values_have_the_types_of_yaml_1_2_and_json() -> None:
    assert data("a: 1\nb: 1.5\nc: True\nd: null\ne:\nf: 'on'\ng: 1e3\nh: -7\ni: 2026-01-02\nj: |\n  x\n") == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": None,
        "f": "on",
        "g": 1000.0,
        "h": -7,
        "i": "2026-01-02",
        "j": "x\n",
    }
    assert data('{"a": [1, "two", false, null]}') == {"a": [1, "two", False, None]}


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "NO", "y", "N"])
def test_a_bare_yaml_1_1_boolean_is_refused_as_a_value(word: str) -> None:
    ((line, message),) = errors(f"spec:\n  mtaSTS: {word}\n")
    assert line == 2
    assert message == f'{word} without quotes is a boolean to kubectl (YAML 1.1); write "{word}" for the text'


def test_a_bare_yaml_1_1_boolean_is_refused_as_a_key() -> None:
    ((line, message),) = errors("a: 1\non: 2\n")
    assert (line, message.startswith("on without quotes")) == (2, True)


def test_the_same_words_in_quotes_are_text() -> None:
    assert data("\"on\": 'off'\nplain: offline\n") == {"on": "off", "plain": "offline"}


@pytest.mark.parametrize("number", ["017", "0o17", "0x1f", "0b1", "1_000"])
def test_numbers_that_yaml_1_1_and_1_2_read_differently_are_refused_without_being_quoted(number: str) -> None:
    ((_, message),) = errors(f"password: {number}\n")
    assert "put it in quotes" in message
    assert number not in message


def test_a_broken_document_leaves_the_others_of_its_file_readable() -> None:
    first, second, third = documents("f.yaml", "a: 1\n--- # two\nb: [1\nc: 2\n---\nd: 3\n")
    assert (first.data, second.data, third.data) == ({"a": 1}, None, {"d": 3})
    assert second.errors[0].line >= 3
    assert third.line == 6


def test_empty_documents_and_comments_are_nothing() -> None:
    assert documents("f.yaml", "# nothing\n---\n---\n# more\n") == []


def test_each_field_has_its_line_in_the_file() -> None:
    text = "x: 0\n---\na:\n  b:\n  - c: 1\n    d: 2\n"
    document = documents("f.yaml", text)[1]
    assert document.line_of(("a", "b", 0, "d")) == 6
    assert document.line_of(("a", "b", 0, "absent")) == 5
    assert document.line_of(("absent",)) == 3


def test_a_key_that_is_there_twice_is_refused() -> None:
    assert errors("a: 1\nb: 2\na: 3\n") == [(3, "key 'a' is there twice; remove one")]


def test_anchors_and_merges_are_read() -> None:
    assert data("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n") == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 2},
        "c": {"p": 1, "q": 3},
    }


def test_an_alias_bomb_is_refused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    assert f"more than {MAX_NODES:,} values" in errors(bomb)[0][1]


def test_what_is_nested_without_end_is_refused() -> None:
    assert "nested" in errors("[" * 80 + "]" * 80)[0][1]
    assert errors("[" * 100_000)


def test_an_alias_to_itself_is_refused() -> None:
    assert errors("a: &a [*a]\n")


@pytest.mark.parametrize(
    "text",
    ["on", "No", "y", "true", "null", "", "~", "17", "017", "1_000", "0x1f", "1e3", ".5", "a: b", "# x", "ü", "a\nb\n"],
)
def test_what_is_written_is_read_back_as_it_was(text: str) -> None:
    value = {"labels": {"a": text, text or "empty": [text]}, "number": 17, "none": None, "truth": True}
    assert data(dump(value)) == value


def test_a_certificate_is_written_as_a_block() -> None:
    assert dump({"ca.crt": "-----BEGIN\nabc\n"}) == "ca.crt: |\n  -----BEGIN\n  abc\n"


@pytest.mark.parametrize(
    "text",
    [
        "password: *geheim",
        "a: &geheim x\nb: &geheim y\nc: [",
        'password: "geheim\\UFFFFFFFF"',
        'password: "geheim\\ud800"',
        "password: !geheim!x y",
        "password: geheim: x",
        "password: @geheim",
        "%geheim x\n",
        "password: geheim\x07",
    ],
)
def test_what_cannot_be_read_is_not_quoted(text: str, recwarn: pytest.WarningsRecorder) -> None:
    found = errors(text)
    assert found
    assert not any("geheim" in message for _, message in found)
    assert not recwarn.list


def test_a_tab_is_named() -> None:
    assert errors("a:\n\tb: 1\n") == [(2, "no YAML: a tab; indent with spaces")]


def test_a_character_written_as_two_escapes_is_one() -> None:
    assert data('{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


def test_errors_without_end_are_cut() -> None:
    found = errors("a: 1\n" * 3_000)
    assert len(found) == MAX_ERRORS + 1
    assert "more than 100 errors" in found[-1][1]
