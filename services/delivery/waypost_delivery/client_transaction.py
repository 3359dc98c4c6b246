"""One mail transaction in a session: MAIL, RCPTs and DATA in one write where PIPELINING is offered (RFC 2920).

Each recipient has its own outcome. Two rules carry the promise:

- who owns the mail is asked with nothing awaited between the answer and the final dot, since the dot delivers;
- what happens after the dot is ambiguous until its reply has come: a connection lost then is deferred, never failed,
  and never tried at another host in the same attempt (RFC 1047).
"""

from collections.abc import Callable, Sequence

from msgspec import Struct, field

from waypost_queue.errors import OwnershipLostError
from waypost_queue.model import Reply

from .client_commands import dot_stuffed, envelope
from .client_replies import Answer
from .client_session import Dialogue, Session
from .transport import Job, RecipientOutcome

_ONE_WRITE = 64 * 1024  # octets: a content of this size goes out together with its final dot
_DATA = b"DATA\r\n"
_RSET = b"RSET\r\n"
_DOT = b".\r\n"


class Transaction(Struct):
    """What came of it.

    `again`: recipients that may still be tried in this attempt, with the outcome that they have if they are not: in the
    same session where that is usable (RFC 5321 4.5.3.1.10, more recipients than it takes at once), else elsewhere (it
    was lost before anything was decided). `answered`: the next hop said something about this mail.
    """

    outcomes: dict[int, RecipientOutcome] = field(default_factory=dict)
    again: dict[int, RecipientOutcome] = field(default_factory=dict)
    answered: bool = False


async def transact(
    session: Session, job: Job, indexes: Sequence[int], dialogue: Dialogue, now: float, sent: Callable[[], None]
) -> Transaction:
    """Sends the mail to these recipients. `now` (Unix seconds) dates the replies. Raises OwnershipLostError.

    `sent` is called as the final dot is written: from then on giving up before its reply might double the mail.
    """
    commands = envelope(job.mail, job.recipients, indexes, job.content, session.offered, session.host)
    done = Transaction(dict(commands.refused))
    if not commands.rcpts:
        done.answered = True  # EHLO's answer said it
        return done
    if not job.owned():
        raise OwnershipLostError
    session.messages += 1
    answers = await _converse(session, job, commands.mail, list(commands.rcpts.values()), dialogue)
    done.answered = bool(answers)
    accepted = _read_envelope(session, done, answers, list(commands.rcpts), now)
    if len(answers) < len(commands.rcpts) + 2:  # no reply to DATA
        return done
    data = answers[-1]
    if data.code != 354:
        outcome = _outcome(session, data, now)
        if data.code == 421:
            done.again.update(dict.fromkeys(accepted, outcome))
        else:
            done.outcomes.update(dict.fromkeys(accepted, outcome))
        if 200 <= data.code < 400:
            session.closing = True
        return done
    if not accepted:
        await _end_empty(session, answers[0], job)
        return done
    await _content(session, job, accepted, done, dialogue, now, sent)
    if not any(done.outcomes[index].result in ("delivered", "relayed") for index in accepted if index in done.outcomes):
        # Without progress a further transaction for those beyond the limit would end the same way.
        _settle_too_many(session, done)
    return done


async def _converse(session: Session, job: Job, mail: bytes, rcpts: list[bytes], dialogue: Dialogue) -> list[Answer]:
    """The answers to MAIL, each RCPT and DATA, as many as came; in lock-step it stops where going on is useless."""
    connection = session.connection
    timeouts = job.plan.timeouts
    reset = session.needs_reset
    session.needs_reset = True
    if "pipelining" in session.offered:
        phases = [timeouts.mail, *([timeouts.rcpt] * len(rcpts)), timeouts.data]
        lines = b"".join((mail, *rcpts, _DATA))
        if reset:
            answers = await connection.ask(_RSET + lines, (timeouts.hello, *phases))
            answers = answers[1:]
        else:
            answers = await connection.ask(lines, phases)
        for line, answer in zip((mail, *rcpts, _DATA), answers, strict=False):
            dialogue.command(line)
            dialogue.answer(answer)
        return answers
    if reset:
        await connection.ask(_RSET, (timeouts.hello,))
    answers = []
    for line in (mail, *rcpts, _DATA):
        timeout = timeouts.mail if line is mail else timeouts.data if line is _DATA else timeouts.rcpt
        if line is _DATA and not any(answer.good for answer in answers[1:]):
            break
        dialogue.command(line)
        came = await connection.ask(line, (timeout,))
        if not came:
            break
        answers += came
        dialogue.answer(came[0])
        if came[0].code == 421 or (line is mail and not came[0].good):
            break
    return answers


def _read_envelope(
    session: Session, done: Transaction, answers: list[Answer], indexes: list[int], now: float
) -> list[int]:
    """Puts what MAIL and RCPT decided into `done`; the recipients that were accepted and wait for DATA."""
    silent = RecipientOutcome("deferred", _silence(session, now)) if len(answers) < len(indexes) + 2 else None
    closing = next((answer for answer in answers if answer.code == 421), None)
    if closing is not None:  # RFC 5321 3.8: it closes, whatever it said before
        session.closing = True
        silent = RecipientOutcome("deferred", session.reply(closing, now))
    if answers and not answers[0].good and answers[0].code != 421:
        outcome = _outcome(session, answers[0], now)
        done.outcomes.update(dict.fromkeys(indexes, outcome))
        return []
    accepted: list[int] = []
    for at, index in enumerate(indexes, start=1):
        answer = answers[at] if at < len(answers) else None
        if answer is None or answer.code == 421 or answers[0].code == 421:
            done.again[index] = silent or RecipientOutcome("deferred", _silence(session, now))
        elif answer.good:
            accepted.append(index)
        elif answer.code in (452, 552):
            # RFC 5321 4.5.3.1.10: 552 means 452 here. Too many, unless it says that it is something else.
            outcome = RecipientOutcome("deferred", session.reply(answer, now))
            too_many = outcome.reply.enhanced in ("", "4.5.3", "5.5.3")
            (done.again if too_many else done.outcomes)[index] = outcome
        else:
            done.outcomes[index] = _outcome(session, answer, now)
    if len(answers) < len(indexes) + 2:
        if session.usable:  # lock-step, nobody was accepted: DATA was not sent
            _settle_too_many(session, done)
        elif silent is not None:
            done.again.update(dict.fromkeys(accepted, silent))
    elif not accepted:
        _settle_too_many(session, done)
    return accepted


def _settle_too_many(session: Session, done: Transaction) -> None:
    """Without progress, going on in the same session is useless; another host may do better if this one is lost."""
    if session.usable:
        done.outcomes.update(done.again)
        done.again.clear()


async def _content(
    session: Session,
    job: Job,
    accepted: list[int],
    done: Transaction,
    dialogue: Dialogue,
    now: float,
    sent: Callable[[], None],
) -> None:
    connection = session.connection
    body = dot_stuffed(job.content)
    tail = _DOT
    if len(body) <= _ONE_WRITE:
        tail = body + _DOT
    elif not await connection.send_content(body, job.plan.timeouts.block):
        _lost_before_dot(session, accepted, done, dialogue, now)
        return
    if connection.lost:
        _lost_before_dot(session, accepted, done, dialogue, now)
        return
    # Nothing is awaited from here until the dot is written.
    if not job.owned():
        connection.abort()  # no dot: the next hop throws the content away (RFC 5321 4.1.1.4)
        raise OwnershipLostError
    final = connection.ask(tail, (job.plan.timeouts.final,))
    sent()
    dialogue.add("c", f"({len(job.content)} octets of content)")
    answers = await final
    if not answers:
        session.closing = True
        text = f"{connection.lost}, after the end of the content: it may have arrived, and is sent again"
        outcome = RecipientOutcome("deferred", session.silence(text, now))
        dialogue.add("-", text)
    else:
        answer = answers[0]
        dialogue.answer(answer)
        session.needs_reset = False
        outcome = _outcome(session, answer, now, final=True)
    done.outcomes.update(dict.fromkeys(accepted, outcome))


def _lost_before_dot(session: Session, accepted: list[int], done: Transaction, dialogue: Dialogue, now: float) -> None:
    """Without its final dot nothing was delivered. An answer before the dot counts if it is a refusal."""
    session.closing = True
    early = session.connection.unsolicited
    if early is not None and early.code >= 400 and early.code != 421:
        dialogue.answer(early)
        done.outcomes.update(dict.fromkeys(accepted, _outcome(session, early, now)))
        return
    reply = _silence(session, now)
    dialogue.add("-", session.connection.lost)
    done.again.update(dict.fromkeys(accepted, RecipientOutcome("deferred", reply)))


async def _end_empty(session: Session, mail: Answer, job: Job) -> None:
    """354 although nobody is left to send to: an empty content ends it (RFC 2920 3.1), unless MAIL itself failed."""
    if not mail.good:
        session.closing = True
        return
    answers = await session.connection.ask(_DOT, (job.plan.timeouts.final,))
    if answers:
        session.needs_reset = False
    else:
        session.closing = True


def _outcome(session: Session, answer: Answer, now: float, *, final: bool = False) -> RecipientOutcome:
    """4xx is deferred, 5xx failed; 2xx delivers after the dot alone; anything else is a mix-up, and deferred."""
    reply = session.reply(answer, now)
    if answer.code == 421:
        session.closing = True
    if final and answer.good:
        # RFC 3461 5.2.2: with DSN offered the next hop has taken over the duty to report.
        return RecipientOutcome("delivered" if "dsn" in session.offered else "relayed", reply)
    if answer.code >= 500:
        return RecipientOutcome("failed", reply)
    if answer.code < 400:
        session.closing = True
    return RecipientOutcome("deferred", reply)


def _silence(session: Session, now: float) -> Reply:
    """Why no answer came: what the next hop said unasked before it closed, else what happened to the connection."""
    unasked = session.connection.unsolicited
    if unasked is not None:
        return session.reply(unasked, now)
    return session.silence(session.connection.lost or "no answer", now)
