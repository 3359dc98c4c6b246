"""Tables: an id in one piece, a row a line for programs, and no control character of a mail."""

import pytest

from waypost_cli.client.output import table

MAIL = "01m89bwcanh38nq6hdh8q5b18w0"


def test_a_row_is_a_line_where_nobody_looks(capsys: pytest.CaptureFixture[str]):
    table(("id", "to", "subject"), [(MAIL, ", ".join(["someone@example.test"] * 9), "Hello \x1b[31m" + "x" * 200)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(MAIL + " ")
    assert "\x1b" not in lines[1]
    assert "\\x1b[31m" in lines[1]


def test_a_narrow_terminal_keeps_an_id_in_one_piece(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    table(("id", "to", "subject"), [(MAIL, "someone@example.test", "Hello from Waypost, once more")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2
    assert any(MAIL in line for line in lines)
