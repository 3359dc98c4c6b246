"""The certificates of a laptop: good for what is listened on, made again when that changes."""

import datetime as dt
from pathlib import Path

from cryptography import x509

from waypost_cli.dev import tls

NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


def names(path: Path) -> set[str]:
    found = x509.load_pem_x509_certificate(path.read_bytes()).extensions
    return {str(name.value) for name in found.get_extension_for_class(x509.SubjectAlternativeName).value}


def test_the_leaf_names_the_host_and_this_machine_and_is_kept_while_it_does(tmp_path: Path):
    ca, leaf, key = tls.ensure(tmp_path, "127.0.0.1", NOW)
    first = leaf.read_bytes()
    assert names(leaf) == {"localhost", "127.0.0.1", "::1"}
    assert key.stat().st_mode & 0o077 == 0
    tls.ensure(tmp_path, "127.0.0.1", NOW + dt.timedelta(days=1))
    assert leaf.read_bytes() == first

    authority = ca.read_bytes()
    tls.ensure(tmp_path, "192.0.2.7", NOW)
    assert "192.0.2.7" in names(leaf)
    assert ca.read_bytes() == authority


def test_a_leaf_that_ends_soon_is_made_again(tmp_path: Path):
    _, leaf, _ = tls.ensure(tmp_path, "localhost", NOW)
    first = leaf.read_bytes()
    tls.ensure(tmp_path, "localhost", NOW + dt.timedelta(days=70))
    assert leaf.read_bytes() != first
