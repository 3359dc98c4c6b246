"""A certificate that is renewed is served without a restart; one that is broken leaves the old one in force."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.ingress.lab import Lab
from tests.support.certs import Authority
from tests.support.wait import eventually
from waypost_ingress.tls import Certificates


async def serial(lab: Lab) -> str:
    """Of the certificate that submissions shows."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", lab.ports["submissions"], ssl=lab.authority.client_context(), server_hostname="localhost"
    )
    await reader.readline()
    found: str = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    await writer.wait_closed()
    return found


async def test_a_renewed_pair_is_in_force_for_new_sessions_and_old_ones_go_on(lab: Lab) -> None:
    before = await serial(lab)
    old = await lab.hello("submissions")
    lab.authority.leaf("localhost", "127.0.0.1")

    async def renewed() -> bool:
        return await serial(lab) != before

    await eventually(renewed, 5.0)
    await old.transaction()
    client = await lab.hello("mx")
    assert (await client.say("STARTTLS")).startswith("220 ")
    await client.start_tls(lab.authority.client_context())


def test_a_pair_that_does_not_fit_leaves_the_last_good_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.leaf("localhost")
    certificates = Certificates(cert, key)
    good = certificates.context
    assert not certificates.refresh()
    cert.write_bytes(Authority(tmp_path / "other").leaf("localhost")[0].read_bytes())
    assert not certificates.refresh()
    assert certificates.context is good
    key.unlink()
    assert not certificates.refresh()
    assert certificates.context is good
    authority.leaf("localhost")
    assert certificates.refresh()
    assert certificates.context is not good


def test_a_link_that_is_turned_counts_as_a_change(tmp_path: Path) -> None:
    """How Kubernetes renews a mounted Secret: the files stay, a link above them is turned."""
    for name in ("one", "two"):
        Authority(tmp_path / name).leaf("localhost")
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "one")
    certificates = Certificates(link / "localhost.crt", link / "localhost.key")
    turned = tmp_path / "turned"
    turned.symlink_to(tmp_path / "two")
    turned.replace(link)
    assert certificates.refresh()


def test_a_start_with_files_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    cert, _ = Authority(tmp_path / "one").leaf("localhost")
    _, key = Authority(tmp_path / "two").leaf("localhost")
    with pytest.raises(ssl.SSLError):
        Certificates(cert, key)
    with pytest.raises(FileNotFoundError):
        Certificates(cert, tmp_path / "none")
