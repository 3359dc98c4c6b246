"""The words of a DSN: what happened, what the remote said, what to do, for a person who has never heard of SMTP. Pure.

Recipients with the same fate stand together, so that a thousand equal refusals are one paragraph.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header, make_header

from waypost_queue.model import Mail, Recipient, Reply, Report, ReportKind, Settled

WIDTH = 76
MAX_FATES = 20  # paragraphs; what is beyond is in the machine's part
MAX_NAMES = 50  # addresses a paragraph
MAX_QUOTE = 700  # characters of what a remote host said

_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
RETURNED = "5.7.0"  # of our own reply where a person had a mail returned
_ASKED = "No action is needed."
_ADDRESS = "Check the address for typing errors, or ask the recipient for the right one another way."
_ASK_THEIRS = "Tell the recipient, by another way, what their server said; only its operators can change it."

# By the subject and detail of the enhanced status code (RFC 3463 3): what it means, and what a sender can do.
_MEANING: Mapping[str, tuple[str, str]] = {
    "1.1": ("There is no such mailbox.", _ADDRESS),
    "1.2": ("There is no such domain, or it can't be found.", _ADDRESS),
    "1.3": ("The address is not written as the receiving server wants it.", _ADDRESS),
    "1.6": ("The recipient has moved, and left no new address.", "Ask the recipient for the new address."),
    "1.8": ("The receiving server does not accept your sender address.", "Ask your own mail administrator."),
    "1.10": ("The domain says that it takes no mail at all.", _ADDRESS),
    "2.1": ("The mailbox is closed.", "Ask the recipient for another address."),
    "2.2": ("The mailbox is full.", "Tell the recipient another way, and send again once there is room."),
    "2.3": ("The message is too large for this mailbox.", "Send it smaller, or send a link to the files instead."),
    "3.1": ("The receiving server has no room.", "Send it again later."),
    "3.4": ("The message is too large for the receiving server.", "Send it smaller, or send a link to the files."),
    "4.1": ("The receiving server did not answer.", "Send it again later, or reach the recipient another way."),
    "4.2": ("The connection to the receiving server broke off.", "Send it again later."),
    "4.3": ("The domain's entries in the DNS could not be read.", _ADDRESS),
    "4.4": ("The domain's mail server could not be found.", _ADDRESS),
    "4.5": ("The receiving server has too much to do.", "Send it again later."),
    "4.6": ("The message went round in a circle.", "Ask the recipient's mail administrator: their routing loops."),
    "4.7": ("The receiving server did not take the message in time.", "Send it again, or reach them another way."),
    "5.3": ("The message has too many recipients for the receiving server.", "Send it to fewer at a time."),
    "6.7": (
        "The receiving server can't handle addresses with letters beyond ASCII.",
        "Ask the recipient for an address of plain letters.",
    ),
    "7.1": ("The receiving server does not allow this message.", _ASK_THEIRS),
    "7.8": ("Our login at the next server was refused.", "Ask your own mail administrator."),
    "7.10": ("An encrypted connection is required, and could not be had.", "Ask your own mail administrator."),
}
_BY_SUBJECT: Mapping[str, tuple[str, str]] = {
    "1": ("The receiving server does not accept the address.", _ADDRESS),
    "2": ("The mailbox can't take the message.", "Tell the recipient another way."),
    "3": ("The receiving server can't take the message.", _ASK_THEIRS),
    "4": ("The receiving server could not be reached.", "Send it again later, or reach the recipient another way."),
    "5": ("The two mail servers did not understand each other.", "Ask your own mail administrator."),
    "6": ("The receiving server can't handle this content.", "Send it in a simpler form, such as plain text."),
    "7": ("The receiving server refused the message by its rules.", _ASK_THEIRS),
}
_REFUSED = ("The receiving server refused the message.", _ASK_THEIRS)
_NOT_NOW = ("The receiving server did not take the message for now.", _ASK_THEIRS)
_UNREACHED = _BY_SUBJECT["4"]

_SUBJECT: Mapping[ReportKind, str] = {
    "failure": "Not delivered: your message to {who}",
    "delay": "Not delivered yet: your message to {who}",
    "success": "Delivered: your message to {who}",
    "relayed": "Passed on: your message to {who}",
}


def subject(kind: ReportKind, first: str, count: int) -> str:
    """The Subject of a DSN about `count` recipients, one of them `first`."""
    others = {1: "", 2: " and 1 other"}.get(count, f" and {count - 1} others")
    return _SUBJECT[kind].format(who=first + others)


def write(mail: Mail, recipients: Mapping[int, Recipient], report: Report, hostname: str, now: float) -> str:
    """The text, lines ended by LF, none beyond WIDTH but for words that are longer."""
    blocks = [_filled(f"This is the mail system at {hostname}."), _filled(_opening(report, now)), _about(mail)]
    fates = _fates(report)
    for (result, reply), indexes in list(fates.items())[:MAX_FATES]:
        blocks.append(_fate(report.kind, result, reply, [recipients[index].address for index in indexes]))
    if len(fates) > MAX_FATES:
        rest = sum(len(indexes) for indexes in list(fates.values())[MAX_FATES:])
        blocks.append(_filled(f"{rest} more recipients are in the delivery report that is attached."))
    blocks.append(_filled(f"If you need help, give your mail administrator the message id {mail.id}."))
    return "\n\n".join(blocks) + "\n"


def _opening(report: Report, now: float) -> str:
    one = len(report.recipients) == 1
    whom = "the recipient below" if one else "the recipients below"
    match report.kind:
        case "failure":
            return f"Your message could not be delivered to {whom}. It will not be tried again."
        case "delay":
            until = f" until {_moment(report.will_retry_until)}" if report.will_retry_until > now else ""
            return (
                f"This is a warning only. Your message could not be delivered to {whom} yet; it will be tried again"
                f"{until}. You need not send it again, and will be told if it can't be delivered in the end."
            )
        case "success":
            return f"Your message was delivered to {whom}, as you asked to be told. {_ASKED}"
        case "relayed":
            return (
                f"Your message to {whom} was passed on to a mail server that sends no confirmations; you asked to "
                f"be told. You may not hear what becomes of it there. {_ASKED}"
            )


def _about(mail: Mail) -> str:
    lines = []
    title = readable(mail.subject)
    if title:
        lines.append(_entry("Subject", title))
    lines += [_entry("Sent", _moment(mail.accepted)), _entry("Message id", mail.id)]
    return "\n".join(lines)


def _fates(report: Report) -> dict[tuple[str, Reply], list[int]]:
    """Recipients by what became of them, in order of first appearance; when it was said makes no difference."""
    fates: dict[tuple[str, Reply], list[int]] = {}
    for one in report.recipients:
        fates.setdefault((one.result, _timeless(one)), []).append(one.index)
    return fates


def _timeless(one: Settled) -> Reply:
    reply = one.reply or Reply()
    return Reply(reply.code, reply.enhanced, reply.text, reply.mta, reply.address)


def _fate(kind: ReportKind, result: str, reply: Reply, addresses: Sequence[str]) -> str:
    lines = [one_line(address) for address in addresses[:MAX_NAMES]]
    if len(addresses) > MAX_NAMES:
        lines.append(f"and {len(addresses) - MAX_NAMES} more")
    if kind in ("failure", "delay"):
        what, advice = meaning(reply)
        if result == "expired":
            what = f"It was tried until its time was up. The last time: {what[0].lower()}{what[1:]}"
        lines.append(_entry("What happened", what))
    said = quote(reply)
    if said:
        lines.append(_entry("It said" if reply.code and reply.mta else "We noted", said))
    if reply.mta:
        lines.append(_entry("Mail server", reply.mta + (f" [{reply.address}]" if reply.address else "")))
    if kind == "failure":
        lines.append(_entry("What to do", advice))
    return "\n".join(lines)


def meaning(reply: Reply) -> tuple[str, str]:
    """What a refusal means, and what the sender can do: by enhanced code, else by what the basic code leaves."""
    if reply.enhanced == RETURNED and not reply.mta:
        return "The operators of this mail system ended its delivery.", "Ask your own mail administrator."
    _, _, detail = reply.enhanced.partition(".")
    found = _MEANING.get(detail) or _BY_SUBJECT.get(detail.partition(".")[0])
    if found is not None:
        return found
    if reply.code >= 500:
        return _REFUSED
    return _NOT_NOW if reply.code else _UNREACHED


def quote(reply: Reply) -> str:
    """What was said, as it is shown."""
    parts = (str(reply.code) if reply.code else "", reply.enhanced, one_line(reply.text)[:MAX_QUOTE])
    return " ".join(part for part in parts if part)


def readable(title: str) -> str:
    """A Subject header as a person reads it: encoded words decoded (RFC 2047), one line."""
    try:
        return one_line(str(make_header(decode_header(one_line(title)))))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):  # cut in the middle, or of no known charset
        return one_line(title)


def _entry(name: str, value: str) -> str:
    return textwrap.fill(
        f"{name}: {one_line(value)}",
        WIDTH,
        initial_indent="    ",
        subsequent_indent="        ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _filled(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False, break_long_words=False)


def one_line(text: str) -> str:
    """Each run of control characters, line and paragraph separators becomes a space; what is no character, too."""
    return _NOT_TEXT.sub(" ", text).strip()


def _moment(at: float) -> str:
    return datetime.fromtimestamp(int(at), UTC).strftime("%A, %-d %B %Y, %H:%M UTC")
