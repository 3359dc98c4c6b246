"""The mails of a session: MAIL, RCPT, DATA and BDAT, from the envelope to the reply that says it is stored.

Decisions are waypost_policy's, storing is `acceptance.Acceptor`'s; here are the order of commands, what a mail may take
up while it is read, and its deadline: it may stand still for `data_timeout`, and must on the whole keep up `data_rate`.
"""

import math
import time
from typing import TYPE_CHECKING

from waypost_policy import acceptance as policy
from waypost_policy import trace
from waypost_policy.acceptance import Grant
from waypost_policy.addresses import parse_forward_path, parse_reverse_path
from waypost_policy.replies import Answer, Replies
from waypost_queue.model import Recipient

from .acceptance import Submission
from .budget import Reservation
from .connection import ClientGoneError
from .content import SEGMENT, ChunkReader, DataReader, Fault
from .dialogue import Command, Dialogue
from .parameters import MailParameters, mail_parameters, rcpt_parameters

if TYPE_CHECKING:
    from .ingress import Ingress, Listener

DISCARD = 1 << 20  # octets by which a refused chunk may pass the size limit and still be read to its end


class Transaction:
    """From MAIL to its end."""

    __slots__ = ("chunks", "grant", "parameters", "priority", "recipients")

    def __init__(self, grant: Grant, parameters: MailParameters, priority: int) -> None:
        self.grant = grant
        self.parameters = parameters
        self.priority = priority
        self.recipients: list[Recipient] = []
        self.chunks: ChunkReader | None = None  # BDAT has begun


class Session(Dialogue):
    """A session that takes mails."""

    def __init__(self, ingress: "Ingress", listener: "Listener") -> None:
        super().__init__(ingress, listener)
        self.transaction: Transaction | None = None
        self._room = Reservation(ingress.room)
        self._received: tuple[tuple[str, bool, str, bool, bool], bytes] | None = None

    def in_transaction(self) -> bool:
        return self.transaction is not None

    def abandon(self) -> None:
        transaction, self.transaction = self.transaction, None
        self._room.release()
        if transaction is not None and transaction.recipients:
            self.ingress.acceptor.limiter.give_back(transaction.grant.scopes, len(transaction.recipients), time.time())

    async def smtp_MAIL(self, argument: str) -> None:  # noqa: N802 - aiosmtpd's naming
        if not self.helo:
            self.answer(Replies.SAY_EHLO_FIRST())
            return
        if self.transaction is not None:
            self.answer(Replies.BAD_SEQUENCE(need="A mail is under way; finish it or say RSET"))
            return
        if argument[:5].upper() != "FROM:":
            self.syntax("MAIL")
            return
        parsed = parse_reverse_path(argument[5:].lstrip(" "))
        if isinstance(parsed, Answer):
            self.answer(parsed)
            return
        sender, words = parsed
        ingress = self.ingress
        submission = self.listener.kind != "mx"
        parameters = mail_parameters(words, time.time() if words else 0.0, submission=submission)
        if isinstance(parameters, Answer):
            self.answer(parameters)
            return
        self.idle_command()
        index = ingress.index()
        self.look_up_network()
        full = ingress.acceptor.room()
        if full is not None:
            self.answer(full)
            return
        grant = policy.at_mail(index, self.party, sender, smtputf8=parameters.smtputf8, size=parameters.size)
        if isinstance(grant, Answer):
            self.answer(grant)
            return
        priority = self._priority(parameters)
        self.transaction = Transaction(grant, parameters, priority)
        if parameters.priority is not None and priority != parameters.priority:
            self.say(Replies.PRIORITY_CHANGED(priority=priority).line)
        else:
            self.say(Replies.SENDER_OK().line)

    def _priority(self, parameters: MailParameters) -> int:
        """Who is not authenticated may lower the priority of a mail, not raise it (RFC 6710 5)."""
        asked = parameters.priority or 0
        return asked if self.identity is not None and self.identity.authenticated else min(asked, 0)

    async def smtp_RCPT(self, argument: str) -> None:  # noqa: N802
        transaction = self.transaction
        if transaction is None or transaction.chunks is not None:
            self.answer(Replies.BAD_SEQUENCE(need="MAIL"))
            return
        if argument[:3].upper() != "TO:":
            self.syntax("RCPT")
            return
        parsed = parse_forward_path(argument[3:].lstrip(" "))
        if isinstance(parsed, Answer):
            self.answer(parsed)
            return
        address, words = parsed
        parameters = rcpt_parameters(words)
        if isinstance(parameters, Answer):
            self.answer(parameters)
            return
        recipients = transaction.recipients
        limiter = self.ingress.acceptor.limiter
        refusal = policy.at_rcpt(transaction.grant, address, len(recipients), limiter, time.time())
        if refusal is not None:
            self.answer(refusal)
            return
        recipients.append(
            Recipient(address=address.text, domain=address.domain, notify=parameters.notify, orcpt=parameters.orcpt)
        )
        self.say(Replies.RECIPIENT_OK().line)

    def _ready_for_content(self, command: str) -> Transaction | None:
        transaction = self.transaction
        if transaction is None:
            self.answer(Replies.BAD_SEQUENCE(need="MAIL"))
        elif not transaction.recipients:
            self.answer(Replies.NO_RECIPIENTS())
        elif command == "DATA" and transaction.chunks is not None:
            self.answer(Replies.BAD_SEQUENCE(need="BDAT has begun; finish with BDAT ... LAST or RSET (RFC 3030 2)"))
        else:
            return transaction
        return None

    async def smtp_DATA(self, argument: str) -> None:  # noqa: N802
        if argument:
            self.syntax("DATA")
            return
        self.last_in_group("DATA")
        transaction = self._ready_for_content("DATA")
        if transaction is None:
            return
        reader = DataReader(transaction.grant.message_size)
        self.say(Replies.START_DATA().line)
        buffer = self.buffer
        clock = _Progress(self)
        await self.fill()
        while not reader.feed(buffer):
            if reader.false_end(buffer):
                self.answer(Replies.BARE_LINE_END())
            if reader.size > SEGMENT and not self._room.cover(reader.size):
                reader.drop(Fault.ROOM)
            await clock.fill()
        self.deadline = math.inf
        if reader.fault is not None:
            self._refuse(transaction, reader.fault)
            return
        await self._accept(transaction, reader.content())

    async def smtp_BDAT(self, argument: str) -> None:  # noqa: N802
        words = argument.upper().split(" ")
        number = words[0]
        if not (number.isascii() and number.isdigit() and len(number) <= 12) or words[1:] not in ([], ["LAST"]):
            # How much of what follows is the chunk is unknown, so nothing of it may be taken for commands.
            self.say(Replies.SYNTAX(syntax="BDAT octets [LAST]").line)
            self.answer(Replies.NOT_SMTP())
        size, last = int(number), len(words) > 1
        transaction = self._ready_for_chunk()
        reader = ChunkReader(0)
        if transaction is not None:
            reader = transaction.chunks = transaction.chunks or ChunkReader(transaction.grant.message_size)
        elif size > self.ingress.settings.message_size + DISCARD:
            self.answer(Replies.PIPELINED_TOO_EARLY(command="RCPT"))
        reader.chunk(size)
        if reader.fault is Fault.SIZE and size > reader.limit + DISCARD and transaction is not None:
            self.say(self._too_big(transaction).line)
            self.answer(Replies.PIPELINED_TOO_EARLY(command="BDAT"))
        clock = _Progress(self)
        while not reader.feed(self.buffer):
            if reader.size > SEGMENT and not self._room.cover(reader.size):
                reader.drop(Fault.ROOM)
            await clock.fill()
        self.deadline = math.inf
        if transaction is None:
            return  # refused already; its octets are read and forgotten (RFC 3030 2)
        if not last:
            fault = reader.fault
            self.answer(Replies.CHUNK_OK(octets=size) if fault is None else self._fault_answer(transaction, fault))
            return
        content = reader.content()
        if reader.fault is not None or content is None:
            self._refuse(transaction, reader.fault or Fault.ENDINGS)
        else:
            await self._accept(transaction, content)

    def _ready_for_chunk(self) -> Transaction | None:
        """As for DATA; but a refusal is only said, since the chunk comes all the same."""
        return self._ready_for_content("BDAT")

    def _too_big(self, transaction: Transaction) -> Answer:
        grant = transaction.grant
        return Replies.TOO_BIG(limit=grant.message_size, of=grant.size_of)

    def _fault_answer(self, transaction: Transaction, fault: Fault) -> Answer:
        if fault is Fault.SIZE:
            return self._too_big(transaction)
        if fault is Fault.LINE:
            return Replies.TEXT_LINE_TOO_LONG()
        if fault is Fault.ROOM:
            return Replies.STORE_FULL(reason="too many large mails are arriving at this moment")
        return Replies.BARE_LINE_END()

    def _refuse(self, transaction: Transaction, fault: Fault) -> None:
        self.abandon()
        self.answer(self._fault_answer(transaction, fault))

    async def _accept(self, transaction: Transaction, content: bytes) -> None:
        if self.closed:
            raise ClientGoneError  # nobody would hear the 250, and a mail without one is sent again
        parameters = transaction.parameters
        submission = Submission(
            grant=transaction.grant,
            parameters=parameters,
            recipients=tuple(transaction.recipients),
            priority=transaction.priority,
            received=self._received_start(parameters.smtputf8),
            listener=self.listener.kind,
            source=self.peer,
        )
        self.transaction = None  # from here on the acceptor gives back what is not used
        try:
            if len(content) > SEGMENT and not self._room.cover(len(content)):
                self.abandon()
                self.answer(Replies.STORE_FULL(reason="too many large mails are arriving at this moment"))
                return
            answer = await self.ingress.acceptor.accept(submission, content)
        finally:
            self._room.release()
        if answer.code < 400:
            self.errors = self.idle_commands = 0
        self.answer(answer)

    def _received_start(self, smtputf8: bool) -> bytes:
        """The session's part of Received, made once as long as nothing changes."""
        authenticated = self.identity is not None and self.identity.authenticated
        key = (self.helo, self.extended, self.tls_words, authenticated, smtputf8)
        if self._received is None or self._received[0] != key:
            start = trace.received_start(
                helo=self.helo,
                peer=self.peer,
                by=self.ingress.settings.hostname,
                esmtp=self.extended,
                tls=self.tls_words,
                authenticated=authenticated,
                smtputf8=smtputf8,
            )
            self._received = (key, start)
        return self._received[1]


class _Progress:
    """The deadline of a content: moved by what arrives."""

    __slots__ = ("_arrived", "_session", "_started")

    def __init__(self, session: Session) -> None:
        self._session = session
        self._started = session.loop.time()
        self._arrived = 0
        session.patience = session.ingress.settings.data_timeout
        session.deadline = self._started + session.patience

    async def fill(self) -> None:
        session = self._session
        settings = session.ingress.settings
        had = len(session.buffer)
        await session.fill()
        grown = len(session.buffer) - had
        if grown > 0:
            self._arrived += grown
            session.deadline = settings.data_timeout + min(
                session.loop.time(), self._started + self._arrived / settings.data_rate
            )


def _commands() -> dict[bytes, Command]:
    """Verb -> method, looked up once for all sessions."""
    return {
        name.removeprefix("smtp_").encode(): getattr(Session, name) for name in dir(Session) if name.startswith("smtp_")
    }


Session.commands = _commands()
