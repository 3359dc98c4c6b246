"""The clients that people use, through each listener: swaks, msmtp, curl, nodemailer and smtplib."""

import asyncio
import datetime as dt
import json
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import argon2
import pytest

from tests.support.dns import DnsServer
from tests.support.lab import Lab, domain
from tests.support.nexthop import NextHop
from waypost_cli.dev import tls
from waypost_queue.config import CredentialConfig, DomainConfig, Sender, Subject

from .conftest import ZONES

pytestmark = pytest.mark.timeout(120)

USER, PASSWORD = "app@src.example", "correct horse battery"
MESSAGE = f"From: <{USER}>\r\nTo: <bob@dst.example>\r\nSubject: From a client\r\n\r\nHello\r\n"


class Submission:
    """A lab with a login, and the CA that its listeners' certificate hangs on."""

    def __init__(self, lab: Lab, hop: NextHop, ca: Path) -> None:
        self.lab = lab
        self.hop = hop
        self.ca = ca

    async def run(self, *command: str, stdin: str = "") -> str:
        """Runs a client; its output, if it succeeds."""
        done = await asyncio.to_thread(
            subprocess.run, command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    async def arrived(self) -> bytes:
        await self.hop.until(lambda h: len(h.accepted) == 1, 20)
        mail = self.hop.accepted[0]
        assert mail.sender == USER
        assert mail.recipients == ("bob@dst.example",)
        return mail.content


@pytest.fixture
async def submission(tmp_path: Path, hop: NextHop) -> AsyncIterator[Submission]:
    ca, certificate, key = tls.ensure(tmp_path / "tls", "localhost", dt.datetime.now(dt.UTC))
    quick = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    trusted = domain("src.example")
    login = Sender(
        name="app", subjects=(Subject(kind="Secret", namespace="lab", name="app"),), addresses=("*@src.example",)
    )
    source = DomainConfig(domain="src.example", namespace="lab", senders=(*trusted.senders, login), retry=trusted.retry)
    async with (
        DnsServer(ZONES) as dns,
        Lab(
            tmp_path,
            dns=dns.address,
            remote_port=hop.port,
            domains=[source],
            env={"TLS_CERT": str(certificate), "TLS_KEY": str(key)},
            fields={
                "credentials": {
                    USER: CredentialConfig(
                        username=USER, domain="src.example", namespace="lab", secret="app", hash=quick.hash(PASSWORD)
                    )
                }
            },
        ) as lab,
    ):
        yield Submission(lab, hop, ca)


def installed(*programs: str) -> pytest.MarkDecorator:
    missing = [one for one in programs if shutil.which(one) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


async def test_smtplib_submits_with_starttls(submission: Submission):
    def send() -> str:
        context = ssl.create_default_context(cafile=str(submission.ca))
        with smtplib.SMTP("localhost", submission.lab.submission, timeout=20) as client:
            client.starttls(context=context)
            client.login(USER, PASSWORD)
            client.sendmail(USER, "bob@dst.example", MESSAGE)
            return client.noop()[1].decode()

    await asyncio.to_thread(send)
    content = await submission.arrived()
    assert b"with ESMTPSA" in content
    assert b"TLSv1.3" in content
    assert b"\r\nMessage-ID: <" in content
    assert b"\r\nDate: " in content


async def test_smtplib_submits_over_implicit_tls(submission: Submission):
    def send() -> None:
        context = ssl.create_default_context(cafile=str(submission.ca))
        with smtplib.SMTP_SSL("localhost", submission.lab.submissions, timeout=20, context=context) as client:
            client.login(USER, PASSWORD)
            client.sendmail(USER, "bob@dst.example", MESSAGE)

    await asyncio.to_thread(send)
    assert b"with ESMTPSA" in await submission.arrived()


@installed("swaks")
@pytest.mark.parametrize("listener", ["mx", "submission", "submissions"])
async def test_swaks_sends_through_each_listener(submission: Submission, listener: str):
    port = getattr(submission.lab, listener)
    how = {"mx": [], "submission": ["-tls"], "submissions": ["--tls-on-connect"]}[listener]
    login = [] if listener == "mx" else ["--auth-user", USER, "--auth-password", PASSWORD]
    said = await submission.run(
        "swaks", "--server", f"localhost:{port}", "--from", USER, "--to", "bob@dst.example", *how, *login
    )  # fmt: skip
    assert "Ok: queued as" in said
    await submission.arrived()


@installed("msmtp")
async def test_msmtp_sends_with_starttls(submission: Submission, tmp_path: Path):
    secret = tmp_path / "msmtp-password"
    secret.write_text(PASSWORD)
    await submission.run(
        "msmtp", "--host=localhost", f"--port={submission.lab.submission}", "--tls=on", "--tls-starttls=on",
        f"--tls-trust-file={submission.ca}", "--auth=plain", f"--user={USER}", f"--passwordeval=cat {secret}",
        f"--from={USER}", "bob@dst.example", stdin=MESSAGE.replace("\r\n", "\n"),
    )  # fmt: skip
    await submission.arrived()


@installed("curl")
async def test_curl_sends_over_implicit_tls(submission: Submission, tmp_path: Path):
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE.encode())
    await submission.run(
        "curl", "--silent", "--show-error", "--cacert", str(submission.ca), "--user", f"{USER}:{PASSWORD}",
        "--mail-from", USER, "--mail-rcpt", "bob@dst.example", "--upload-file", str(path),
        f"smtps://localhost:{submission.lab.submissions}",
    )  # fmt: skip
    await submission.arrived()


@installed("node", "npm")
async def test_nodemailer_sends_with_starttls(submission: Submission, tmp_path: Path):
    install = await asyncio.to_thread(
        subprocess.run,
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path / "node"), "nodemailer@7"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    if install.returncode:
        pytest.skip(f"npm has no nodemailer here: {install.stderr[-200:]}")
    script = tmp_path / "node" / "send.js"
    options = {
        "host": "localhost",
        "port": submission.lab.submission,
        "requireTLS": True,
        "auth": {"user": USER, "pass": PASSWORD},
    }
    mail = {"from": USER, "to": "bob@dst.example", "subject": "From nodemailer", "text": "Hello"}
    script.write_text(
        f"const options = {json.dumps(options)};\n"
        f"options.tls = {{ca: require('fs').readFileSync({json.dumps(str(submission.ca))})}};\n"
        f"require('nodemailer').createTransport(options).sendMail({json.dumps(mail)})"
        ".then(r => console.log(r.response), e => { console.error(e); process.exit(1); });\n"
    )
    assert "queued as" in await submission.run("node", str(script))
    await submission.arrived()


async def test_a_wrong_password_is_refused_without_saying_why(submission: Submission):
    def login(user: str, password: str) -> tuple[int, bytes]:
        with smtplib.SMTP_SSL(
            "localhost",
            submission.lab.submissions,
            timeout=20,
            context=ssl.create_default_context(cafile=str(submission.ca)),
        ) as client:
            try:
                return client.login(user, password)
            except smtplib.SMTPAuthenticationError as error:
                return error.smtp_code, error.smtp_error

    wrong_password = await asyncio.to_thread(login, USER, "nonsense")
    wrong_user = await asyncio.to_thread(login, "nobody@src.example", PASSWORD)
    assert wrong_password[0] == 535
    assert wrong_password == wrong_user
