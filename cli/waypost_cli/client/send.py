"""`waypost send`: a mail by SMTP submission, as an application would send it."""

import email.policy
import smtplib
import ssl
import sys
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Annotated

import typer

from waypost_cli.exits import Exit, fail

_MAX = 100 << 20  # octets read from a file or standard input


def send(
    to: Annotated[list[str], typer.Option("--to", help="recipient; may be given more than once")],
    sender: Annotated[str, typer.Option("--from", help="address in MAIL FROM and the header From")],
    subject: Annotated[str, typer.Option(help="Subject header")] = "",
    text: Annotated[str, typer.Option(help="body; - reads standard input")] = "",
    file: Annotated[Path | None, typer.Option(help="a whole message (headers and body) instead")] = None,
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="submission, STARTTLS")] = "localhost:2587",
    username: Annotated[str, typer.Option(help="default: the login of the sender's domain in --data")] = "",
    password_file: Annotated[Path | None, typer.Option(help="file that holds the password")] = None,
    ca: Annotated[Path | None, typer.Option(help="CA to trust; default: that of --data")] = None,
    data: Annotated[Path, typer.Option(help="the folder of `waypost dev`")] = Path("data"),
) -> None:
    """Send a mail through the submission port and print its id."""
    host, colon, port = server.rpartition(":")
    if not colon or not port.isdigit():
        fail(Exit.USAGE, f"--server {server!r} is no HOST:PORT")
    user, password = _login(username, password_file, data, sender)
    ca_file = ca or (data / "tls" / "ca.crt" if (data / "tls" / "ca.crt").exists() else None)
    message = _message(sender, to, subject, text, file)
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        with smtplib.SMTP(host, int(port), timeout=60) as client:
            client.starttls(context=context)
            client.ehlo()
            client.login(user, password)
            _check(client.mail(sender, ["SMTPUTF8"] if _needs_utf8(sender, to) else []), "MAIL FROM")
            refused = [(one, reply) for one in to if (reply := client.rcpt(one))[0] // 100 != 2]
            for one, (code, said) in refused:
                typer.echo(f"waypost: {one}: {code} {said.decode('utf-8', 'replace')}", err=True)
            if len(refused) == len(to):
                raise typer.Exit(Exit.FAILED)
            reply = client.data(message)
            _check(reply, "DATA")
    except (smtplib.SMTPException, OSError) as error:
        fail(Exit.UNAVAILABLE if isinstance(error, ConnectionError) else Exit.FAILED, f"{server}: {error}")
    typer.echo(reply[1].decode("utf-8", "replace").rsplit(" ", 1)[-1])
    if refused:
        raise typer.Exit(Exit.FAILED)


def _check(reply: tuple[int, bytes], step: str) -> None:
    code, said = reply
    if code // 100 != 2:
        fail(Exit.FAILED, f"{step}: {code} {said.decode('utf-8', 'replace')}")


def _needs_utf8(sender: str, to: list[str]) -> bool:
    return not all(address.isascii() for address in (sender, *to))


def _login(username: str, password_file: Path | None, data: Path, sender: str) -> tuple[str, str]:
    if username:
        if password_file is None:
            fail(Exit.USAGE, "--username needs --password-file")
        try:
            return username, password_file.read_text().strip()
        except OSError as error:
            fail(Exit.USAGE, f"--password-file {password_file}: {error.strerror}")
    from waypost_cli.dev.first_mail import credential

    found = credential(data, sender.rpartition("@")[2])
    if found is None:
        fail(Exit.USAGE, f"no login for {sender} under {data / 'secrets'}; give --username and --password-file")
    return found["username"], found["password"]


def _message(sender: str, to: list[str], subject: str, text: str, file: Path | None) -> bytes:
    if file is not None:
        try:
            with file.open("rb") as source:
                content = source.read(_MAX)
        except OSError as error:
            fail(Exit.USAGE, f"--file {file}: {error.strerror}")
        return content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    message = EmailMessage(policy=email.policy.SMTPUTF8 if _needs_utf8(sender, to) else email.policy.SMTP)
    message["From"] = sender
    message["To"] = ", ".join(to)
    message["Subject"] = subject
    message["Date"] = formatdate(localtime=True)
    message["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2] or "localhost")
    message.set_content(sys.stdin.read(_MAX) if text == "-" else text)
    return message.as_bytes()
