"""The reference of replies: `python -m waypost_policy.reference > docs/replies.md` makes it from the table."""

from .replies import table

_HEAD = """# Replies

Every reply that Waypost's SMTP server gives: its code, its enhanced status code (RFC 3463, RFC 5248), its text, and
when it comes. The name is the label `reply` of the metric `waypost.smtp.refusals`; the HTTP API gives it as the
problem's type. Words in braces are filled in. "Closes" means that the connection ends after it.

4xx is worth trying again, 5xx is not. No reply passes 512 octets (RFC 5321 4.5.3.1.5), and none quotes anything but
printable ASCII.

Not in the table, since they answer nothing or are no sentence: the greeting (`220 host ESMTP Waypost`), the lines of
EHLO and HELO (`250`), and the challenges of AUTH (`334` and base64).

This page is made from the table in `libs/waypost_policy/replies.py`; run
`python -m waypost_policy.reference > docs/replies.md` after changing that.

| code | status | text | when | closes | name |
| --- | --- | --- | --- | --- | --- |
"""


def render() -> str:
    """The page as Markdown."""
    rows = [
        f"| {reply.code} | {reply.enhanced} | `{reply.text}` | {reply.when} | {'yes' if reply.close else ''} "
        f"| `{reply.name}` |\n"
        for reply in sorted(table(), key=lambda reply: reply.code // 100)
    ]
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(render(), end="")  # the page goes to where the shell sends it
