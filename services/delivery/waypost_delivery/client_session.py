"""Opening a session: connect, greeting, EHLO, STARTTLS, AUTH. What comes out is ready for MAIL.

A host that fails here has taken nothing, so that the next one may be tried: every failure is a `DialError`, which tells
what the host said and whether it was for good.
"""

import asyncio
import ssl
import time
from typing import Literal, cast

import opentelemetry.metrics
from aiosmtplib import SMTPException, SMTPResponseException
from aiosmtplib.auth import auth_login_encode, auth_plain_encode
from aiosmtplib.esmtp import parse_esmtp_extensions

from waypost_queue.events import DialogueLine
from waypost_queue.model import Reply

from .client import Connection
from .client_replies import Answer, printable, to_reply
from .routing import Host, loop_reply
from .tls import Contexts, TlsPolicy, describe, failure
from .transport import DeliveryPlan

_meter = opentelemetry.metrics.get_meter("waypost")
CONNECTIONS = _meter.create_counter(
    "waypost.delivery.connections",
    unit="{connection}",
    description="Connections to next hops, by outcome (plaintext, encrypted, connect, greeting, tls, auth, loop).",
)

_MAX_LINES = 120  # of a dialogue
_MAX_LINE = 500  # characters


class Dialogue:
    """What was said in an attempt, bounded."""

    def __init__(self, began: float) -> None:
        self._began = began  # monotonic clock
        self.lines: list[DialogueLine] = []

    def add(self, who: Literal["c", "s", "-"], text: str) -> None:
        """A line; the last one says that there were more."""
        if len(self.lines) < _MAX_LINES:
            self.lines.append(DialogueLine(at=time.monotonic() - self._began, who=who, text=text[:_MAX_LINE]))
        elif len(self.lines) == _MAX_LINES:
            self.lines.append(DialogueLine(at=time.monotonic() - self._began, who="-", text="more lines are left out"))

    def command(self, line: bytes) -> None:
        self.add("c", line[: _MAX_LINE * 2].decode("utf-8", "replace").rstrip("\r\n"))

    def answer(self, answer: Answer) -> None:
        self.add("s", answer.summary)


def _without(answer: Answer, username: str, password: str) -> Answer:
    """The answer to AUTH less what of the exchange the host repeats, as some do with a line that they don't take."""
    encoded = [
        part.decode() for part in (auth_plain_encode(username, password), *auth_login_encode(username, password))
    ]
    lines = answer.lines
    for secret in (encoded[0], encoded[-1], password):
        lines = tuple(line.replace(secret, "[...]") for line in lines) if secret else lines
    return Answer(answer.code, lines)


DialStage = Literal["connect", "greeting", "tls", "auth", "loop"]


class DialError(Exception):
    """This address took nothing; `result` is what it means when no other can be tried."""

    def __init__(self, stage: DialStage, result: Literal["failed", "deferred"], reply: Reply) -> None:
        super().__init__(reply.text)
        self.stage = stage
        self.result = result
        self.reply = reply


class PlaintextError(Exception):
    """STARTTLS went wrong under an opportunistic policy: the same address may be tried without."""


class Session:
    """A connection that is ready for MAIL, and what the next hop offers."""

    def __init__(self, connection: Connection, host: str, address: str, opened: float, quit_timeout: float) -> None:
        self.connection = connection
        self.host = host
        self.address = address
        self.opened = opened
        self.quit_timeout = quit_timeout
        self.offered: dict[str, str] = {}
        self.auth: list[str] = []
        self.tls = ""
        self.local_address = ""
        self.messages = 0
        self.most_messages = 0  # RFC 9422 MAILMAX; 0 = unsaid
        self.most_recipients = 0  # RFC 9422 RCPTMAX
        self.needs_reset = False  # a transaction was begun and not ended
        self.closing = False  # in no state for a further transaction
        self.idle_since = 0.0
        self.key: object = None

    @property
    def usable(self) -> bool:
        return not self.closing and not self.connection.lost

    def reply(self, answer: Answer, at: float) -> Reply:
        """The answer as it is stored."""
        return to_reply(answer, mta=self.host, address=self.address, at=at)

    def silence(self, text: str, at: float, enhanced: str = "4.4.2") -> Reply:
        """What stands in for an answer that did not come."""
        return Reply(code=0, enhanced=enhanced, text=printable(text), mta=self.host, address=self.address, at=at)

    def learn(self, answer: Answer) -> None:
        """Takes in the answer to EHLO."""
        self.offered, self.auth = parse_esmtp_extensions("\n".join(answer.lines))
        self.most_messages = self.most_recipients = 0
        for item in self.offered.get("limits", "").upper().split():
            name, _, value = item.partition("=")
            if value.isdecimal() and int(value) > 0:
                if name == "MAILMAX":
                    self.most_messages = int(value)
                elif name == "RCPTMAX":
                    self.most_recipients = int(value)


class Dialer:
    """Opens sessions by one plan and TLS policy."""

    def __init__(self, contexts: Contexts, own_names: frozenset[str], hostname: str) -> None:
        self._contexts = contexts
        self._own_names = own_names
        self._hostname = hostname
        self._loop = asyncio.get_running_loop()

    async def dial(
        self, host: Host, address: str, port: int, plan: DeliveryPlan, tls: TlsPolicy, dialogue: Dialogue
    ) -> Session:
        """A session with one address. Raises DialError, and PlaintextError if it is worth trying without TLS."""
        try:
            session = await self._dial(host, address, port, plan, tls, dialogue)
        except DialError as error:
            CONNECTIONS.add(1, {"outcome": error.stage})
            dialogue.add("-", f"{host.name} [{address}]: {error.reply.text}")
            raise
        except PlaintextError as error:
            CONNECTIONS.add(1, {"outcome": "tls"})
            dialogue.add("-", f"{host.name} [{address}]: {error}; again without TLS, which the policy allows")
            raise
        CONNECTIONS.add(1, {"outcome": "encrypted" if session.tls else "plaintext"})
        return session

    async def _dial(
        self, host: Host, address: str, port: int, plan: DeliveryPlan, tls: TlsPolicy, dialogue: Dialogue
    ) -> Session:
        connection = await self._connect(host, address, port, plan, tls)
        session = Session(connection, host.name, address, time.monotonic(), plan.timeouts.quit)
        try:
            await self._open(session, host, plan, tls, dialogue)
        except BaseException:
            connection.abort()
            raise
        return session

    async def _connect(self, host: Host, address: str, port: int, plan: DeliveryPlan, tls: TlsPolicy) -> Connection:
        implicit = tls.mode == "implicit"
        patience = plan.timeouts.connect + (plan.timeouts.tls if implicit else 0.0)
        try:
            async with asyncio.timeout(patience):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop),
                    address,
                    port,
                    ssl=self._contexts.of(tls) if implicit else None,
                    server_hostname=host.name if implicit else None,
                    ssl_handshake_timeout=plan.timeouts.tls if implicit else None,
                )
        except ssl.SSLError as error:
            raise self._error("tls", "deferred", host, address, failure(error), "4.7.5") from error
        except TimeoutError as error:
            raise self._error("connect", "deferred", host, address, f"no connection within {patience:g} s") from error
        except OSError as error:
            text = error.strerror or str(error) or type(error).__name__
            raise self._error("connect", "deferred", host, address, f"no connection: {text}") from error
        return connection

    async def _open(self, session: Session, host: Host, plan: DeliveryPlan, tls: TlsPolicy, dialogue: Dialogue) -> None:
        connection = session.connection
        transport = cast("asyncio.Transport", connection.transport)
        if transport is not None:
            session.local_address = str((transport.get_extra_info("sockname") or ("",))[0])
        dialogue.add("-", f"connected to {host.name} [{session.address}] from {session.local_address}")
        if tls.mode == "implicit":
            self._secured(session, tls, dialogue)
        greeting = await connection.greeting(plan.timeouts.greeting)
        self._expect(session, greeting, 220, dialogue)
        name = (plan.ehlo or self._hostname).encode("idna" if not (plan.ehlo or self._hostname).isascii() else "ascii")
        await self._hello(session, name, plan, dialogue)
        if tls.mode in ("opportunistic", "required"):
            await self._start_tls(session, host, name, plan, tls, dialogue)
        smarthost = plan.route.smarthost
        if plan.route.type == "Smarthost" and smarthost is not None and smarthost.username:
            await self._authenticate(session, smarthost.username, plan, dialogue)

    async def _hello(self, session: Session, name: bytes, plan: DeliveryPlan, dialogue: Dialogue) -> None:
        timeout = plan.timeouts.hello
        for verb in (b"EHLO", b"HELO"):
            command = verb + b" " + name + b"\r\n"
            dialogue.command(command)
            answers = await session.connection.ask(command, (timeout,))
            if answers and verb == b"EHLO" and 500 <= answers[0].code <= 504:  # RFC 5321 3.2: an old one
                dialogue.answer(answers[0])
                continue
            answer = self._expect(session, answers[0] if answers else None, 250, dialogue)
            break
        if verb == b"EHLO":
            session.learn(answer)
        remote = answer.lines[0].split(" ", 1)[0].lower()
        if "." in remote and remote in self._own_names:  # RFC 5321 6.3, 7.7
            raise DialError(
                "loop", "failed", loop_reply(f"{session.host} [{session.address}] says that it is {remote}")
            )

    async def _start_tls(
        self, session: Session, host: Host, name: bytes, plan: DeliveryPlan, tls: TlsPolicy, dialogue: Dialogue
    ) -> None:
        if "starttls" not in session.offered:
            if tls.mode == "required":
                raise self._tls_error(session, "it offers no STARTTLS, and TLS is required", "4.7.4")
            return
        dialogue.command(b"STARTTLS")
        try:
            # start_tls replaces the transport, and leaves the old one open when the handshake fails.
            response = await session.connection.start_tls(
                self._contexts.of(tls), None if host.literal and not tls.verify else host.name, plan.timeouts.tls
            )
        except SMTPResponseException as error:
            dialogue.add("s", f"{error.code} {printable(error.message)}")
            if tls.mode == "required" or error.code == 421:
                raise self._tls_error(session, f"STARTTLS was answered with {error.code}", "4.7.4") from error
            return
        except (SMTPException, OSError) as error:  # ssl.SSLError is an OSError
            if session.connection.unsolicited is not None:
                # RFC 3207 4.2, CVE-2011-0411: somebody speaks into the plaintext. Nothing goes to this address.
                raise self._tls_error(session, "it sent more before the TLS handshake", "4.7.5") from error
            if tls.mode == "opportunistic":
                raise PlaintextError(failure(error)) from error
            raise self._tls_error(session, failure(error), "4.7.5") from error
        dialogue.add("s", f"{response.code} {printable(response.message)}")
        self._secured(session, tls, dialogue)
        session.offered, session.auth = {}, []  # RFC 3207 4.2: what was learned in plaintext counts for nothing
        await self._hello(session, name, plan, dialogue)

    def _secured(self, session: Session, tls: TlsPolicy, dialogue: Dialogue) -> None:
        transport = session.connection.transport
        session.tls = describe(transport.get_extra_info("ssl_object") if transport is not None else None, tls)
        dialogue.add("-", session.tls)

    async def _authenticate(self, session: Session, username: str, plan: DeliveryPlan, dialogue: Dialogue) -> None:
        """PLAIN, else LOGIN; the exchange itself is in no dialogue. A refusal is ours to mend: the mail waits."""
        password = plan.password.get_secret_value()
        connection = session.connection
        timeouts = (plan.timeouts.hello,)
        if "plain" in session.auth:
            dialogue.add("-", f"AUTH PLAIN as {username}")
            answers = await connection.ask(b"AUTH PLAIN " + auth_plain_encode(username, password) + b"\r\n", timeouts)
        elif "login" in session.auth:
            dialogue.add("-", f"AUTH LOGIN as {username}")
            answers = await connection.ask(b"AUTH LOGIN\r\n", timeouts)
            for step in auth_login_encode(username, password):
                if answers and answers[0].code == 334:
                    answers = await connection.ask(step + b"\r\n", timeouts)
        else:
            raise self._refused("auth", session, "it offers neither AUTH PLAIN nor LOGIN", "4.7.4")
        answer = answers[0] if answers else None
        if answer is not None:
            answer = _without(answer, username, password)
            dialogue.answer(answer)
        if answer is None or answer.code != 235:
            reply = session.reply(answer, time.time()) if answer else session.silence(connection.lost, time.time())
            raise DialError("auth", "deferred", reply)

    def _expect(self, session: Session, answer: Answer | None, code: int, dialogue: Dialogue) -> Answer:
        """The answer if it has this code; a DialError that tells what there was instead."""
        if answer is None:
            raise self._refused("greeting", session, session.connection.lost, "4.4.2")
        dialogue.answer(answer)
        if answer.code == code:
            return answer
        reply = session.reply(answer, time.time())
        raise DialError("greeting", "failed" if answer.code >= 500 else "deferred", reply)

    def _refused(self, stage: DialStage, session: Session, text: str, enhanced: str) -> DialError:
        return DialError(stage, "deferred", session.silence(text, time.time(), enhanced))

    def _tls_error(self, session: Session, text: str, enhanced: str) -> DialError:
        return self._refused("tls", session, text, enhanced)

    def _error(
        self,
        stage: DialStage,
        result: Literal["failed", "deferred"],
        host: Host,
        address: str,
        text: str,
        enhanced: str = "4.4.1",
    ) -> DialError:
        reply = Reply(code=0, enhanced=enhanced, text=printable(text), mta=host.name, address=address, at=time.time())
        return DialError(stage, result, reply)
