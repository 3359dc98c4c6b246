"""The table of replies: complete, well formed, printable whatever is filled in, and the same in the documentation."""

import ast
import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_policy.reference import render
from waypost_policy.replies import MAX_REPLY, Replies, Reply, printable, table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "replies.md"
TEXTS = (str, bytes)


def facts_of(reply: Reply) -> list[str]:
    return [name for _, name, _, _ in string.Formatter().parse(reply.text) if name]


@pytest.mark.parametrize("reply", table(), ids=lambda reply: reply.name)
def test_a_reply_has_a_status_of_its_class_and_a_sentence(reply):
    assert 200 <= reply.code < 600
    assert reply.when
    if reply.enhanced:
        assert re.fullmatch(r"[245]\.\d\.\d{1,2}", reply.enhanced)
        assert reply.enhanced[0] == str(reply.code)[0]
    else:
        assert reply.code in (220, 334, 354)  # RFC 2034 4: no status codes in these
    if reply.close:
        assert reply.code in (221, 421, 500, 554)


@given(st.text(max_size=600))
def test_nothing_that_is_filled_in_makes_a_line_or_passes_512_octets(fact):
    for reply in table():
        line = reply(**dict.fromkeys(facts_of(reply), fact)).line
        assert len(line) <= MAX_REPLY
        assert line.endswith(b"\r\n")
        assert all(0x20 <= octet < 0x7F for octet in line[:-2])


def test_an_answer_reads_as_the_table_says():
    answer = Replies.QUEUED(id="01kdt2m5g0abcdefghjkmnpqrs0")
    assert answer.line == b"250 2.0.0 Ok: queued as 01kdt2m5g0abcdefghjkmnpqrs0\r\n"
    assert answer.name == "queued"
    assert Replies.START_DATA().line == b"354 End data with <CR><LF>.<CR><LF>\r\n"


def test_names_are_unique():
    names = [reply.name for reply in table()]
    assert len(set(names)) == len(names)


def constants(path: Path) -> list[str]:
    """Every string and bytes literal of a Python file, the fixed parts of f-strings among them."""
    values = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    return [value.decode("latin-1") if isinstance(value, bytes) else value for value in values if type(value) in TEXTS]


def test_the_server_says_nothing_that_is_not_in_the_table():
    sources = [*(ROOT / "services/ingress").rglob("*.py"), *(ROOT / "libs/waypost_policy").rglob("*.py")]
    found = {text[:3] for path in sources for text in constants(path) if re.match(r"[2-5]\d\d[ -]|250\Z", text)}
    assert found == {"220", "250", "334"}, "what docs/replies.md says stands outside the table"


def test_every_row_of_the_table_is_given_by_somebody():
    sources = "".join(path.read_text() for top in ("services", "libs") for path in (ROOT / top).rglob("*.py"))
    used = set(re.findall(r"Replies\.([A-Z_0-9]+)\(", sources))
    assert {reply.name.upper() for reply in table()} == used


def test_what_is_long_or_odd_is_cut_and_escaped():
    assert printable("a\r\nb") == "a\\r\\nb"
    assert len(printable("x" * 500)) == 120
    assert printable("caf\xe9") == "caf\\xe9"


def test_the_page_is_made_from_the_table():
    assert PAGE.read_text() == render(), "run: python -m waypost_policy.reference > docs/replies.md"
