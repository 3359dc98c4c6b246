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

LISTENERS = ("mx", "submission", "submissions")
USER, PASSWORD = "app@src.example", "correct horse battery"
MESSAGE = f"From: <{USER}>\r\nTo: <bob@dst.example>\r\nSubject: From a client\r\n\r\nHello\r\n"


class Submission:
    """A lab with a login, and the CA that its listeners' certificate hangs on."""

    def __init__(self, lab: Lab, hop: NextHop, ca: Path) -> None:
        self.lab = lab
        self.hop = hop
        self.ca = ca
        self.count = 0

    async def run(self, *command: str, stdin: str = "") -> str:
        """Runs a client; its output, if it succeeds."""
        done = await asyncio.to_thread(
            subprocess.run, command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    async def arrived(self, listener: str) -> bytes:
        """The next mail at the next hop, checked for what its listener says in `Received`."""
        self.count += 1
        await self.hop.until(lambda h: len(h.accepted) == self.count, 20)
        mail = self.hop.accepted[-1]
        assert mail.sender == USER
        assert mail.recipients == ("bob@dst.example",)
        assert (b"with ESMTP " if listener == "mx" else b"with ESMTPSA ") in mail.content
        assert listener == "mx" or b"TLSv1.3" in mail.content
        return mail.content

    def port(self, listener: str) -> int:
        return {"mx": self.lab.mx, "submission": self.lab.submission, "submissions": self.lab.submissions}[listener]


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


async def test_smtplib_sends_through_each_listener(submission: Submission):
    def send(listener: str) -> None:
        context = ssl.create_default_context(cafile=str(submission.ca))
        port = submission.port(listener)
        implicit = listener == "submissions"
        with (
            smtplib.SMTP_SSL("localhost", port, timeout=20, context=context)
            if implicit
            else smtplib.SMTP("localhost", port, timeout=20)
        ) as client:
            if listener == "submission":
                client.starttls(context=context)
            if listener != "mx":
                client.login(USER, PASSWORD)
            client.sendmail(USER, "bob@dst.example", MESSAGE)

    for listener in LISTENERS:
        await asyncio.to_thread(send, listener)
        content = await submission.arrived(listener)
        assert (b"\r\nMessage-ID: <" in content) == (listener != "mx")
        assert (b"\r\nDate: " in content) == (listener != "mx")


@installed("swaks")
async def test_swaks_sends_through_each_listener(submission: Submission):
    for listener in LISTENERS:
        how = {"mx": [], "submission": ["-tls"], "submissions": ["--tls-on-connect"]}[listener]
        login = [] if listener == "mx" else ["--auth-user", USER, "--auth-password", PASSWORD]
        server = f"localhost:{submission.port(listener)}"
        said = await submission.run(
            "swaks", "--server", server, "--from", USER, "--to", "bob@dst.example", *how, *login
        )
        assert "Ok: queued as" in said
        await submission.arrived(listener)


@installed("msmtp")
async def test_msmtp_sends_through_each_listener(submission: Submission, tmp_path: Path):
    secret = tmp_path / "msmtp-password"
    secret.write_text(PASSWORD)
    login = ["--auth=plain", f"--user={USER}", f"--passwordeval=cat {secret}", f"--tls-trust-file={submission.ca}"]
    how = {
        "mx": ["--tls=off", "--auth=off"],
        "submission": ["--tls=on", "--tls-starttls=on", *login],
        "submissions": ["--tls=on", "--tls-starttls=off", *login],
    }
    for listener in LISTENERS:
        await submission.run(
            "msmtp", "--host=localhost", f"--port={submission.port(listener)}", *how[listener], f"--from={USER}",
            "bob@dst.example", stdin=MESSAGE.replace("\r\n", "\n"),
        )  # fmt: skip
        await submission.arrived(listener)


@installed("curl")
async def test_curl_sends_through_each_listener(submission: Submission, tmp_path: Path):
    path = tmp_path / "mail.eml"
    path.write_bytes(MESSAGE.encode())
    login = ["--cacert", str(submission.ca), "--user", f"{USER}:{PASSWORD}"]
    how = {"mx": [], "submission": ["--ssl-reqd", *login], "submissions": login}
    for listener in LISTENERS:
        scheme = "smtps" if listener == "submissions" else "smtp"
        await submission.run(
            "curl", "--silent", "--show-error", *how[listener], "--mail-from", USER, "--mail-rcpt", "bob@dst.example",
            "--upload-file", str(path), f"{scheme}://localhost:{submission.port(listener)}",
        )  # fmt: skip
        await submission.arrived(listener)


@installed("node", "npm")
async def test_nodemailer_sends_through_each_listener(submission: Submission, tmp_path: Path):
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
    login = {"auth": {"user": USER, "pass": PASSWORD}}
    how = {
        "mx": {"ignoreTLS": True},
        "submission": {"requireTLS": True, **login},
        "submissions": {"secure": True, **login},
    }
    mail = {"from": USER, "to": "bob@dst.example", "subject": "From nodemailer", "text": "Hello"}
    for listener in LISTENERS:
        options = {"host": "localhost", "port": submission.port(listener), **how[listener]}
        script.write_text(
            f"const options = {json.dumps(options)};\n"
            f"options.tls = {{ca: require('fs').readFileSync({json.dumps(str(submission.ca))})}};\n"
            f"require('nodemailer').createTransport(options).sendMail({json.dumps(mail)})"
            ".then(r => console.log(r.response), e => { console.error(e); process.exit(1); });\n"
        )
        assert "queued as" in await submission.run("node", str(script))
        await submission.arrived(listener)


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
