"""Sealed secrets open under their own name and key, and under no other."""

from pathlib import Path

import pytest

from waypost_queue.seal import Sealer, SealError, load_key

SEALER = Sealer(b"k" * 32)


def test_a_sealed_value_opens_under_its_name() -> None:
    assert SEALER.open("smarthost.a", SEALER.seal("smarthost.a", b"secret")) == b"secret"


def test_two_seals_of_one_value_differ() -> None:
    assert SEALER.seal("a", b"secret") != SEALER.seal("a", b"secret")


def test_another_name_another_key_or_a_changed_bit_does_not_open() -> None:
    sealed = SEALER.seal("a", b"secret")
    with pytest.raises(SealError, match="same sealing key"):
        SEALER.open("b", sealed)
    with pytest.raises(SealError, match="same sealing key"):
        Sealer(b"x" * 32).open("a", sealed)
    with pytest.raises(SealError, match="same sealing key"):
        SEALER.open("a", sealed[:-1] + bytes((sealed[-1] ^ 1,)))


@pytest.mark.parametrize("sealed", [b"", b"\x01short", b"\x02" + b"x" * 40])
def test_what_was_never_sealed_is_refused(sealed: bytes) -> None:
    with pytest.raises(SealError):
        SEALER.open("a", sealed)


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "seal"
    key = load_key(path, create=True)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, create=True) == key
    assert load_key(path, create=False) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["seal"]


def test_a_missing_or_wrong_key_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SealError, match="32 octets in base64"):
        load_key(tmp_path / "none", create=False)
    (tmp_path / "bad").write_text("not base64!")
    with pytest.raises(SealError, match="not base64"):
        load_key(tmp_path / "bad", create=False)
    (tmp_path / "short").write_text("aGk=")
    with pytest.raises(SealError, match="2 octets"):
        load_key(tmp_path / "short", create=False)
