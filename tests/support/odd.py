"""Odd messages: what real and hostile mail look like, all legal to relay, each different. Deterministic by seed."""

import random

_BODIES = (
    b"",
    b"\r\n",
    b"one line without an end",
    b"trailing blank lines\r\n\r\n\r\n\r\n",
    b".\r\n..\r\n...\r\n.leading dots\r\n",
    b"..\r\n",
    b"a line of exactly one dot follows\r\n.",
    b"tabs\tand  spaces   \r\n   \r\n\t\r\n",
    b"form feed \x0c vertical tab \x0b escape \x1b[31m bell \x07\r\n",
    b"8 bit: \xe4\xf6\xfc \xff\xfe \x80\r\n",
    "UTF-8: žluťoučký kůň, 日本語, 🐎\r\n".encode(),
    b"DATA\r\nQUIT\r\nMAIL FROM:<x@y>\r\nRSET\r\n",
    b"From someone on Monday\r\n>From quoted\r\n",
    b"--boundary\r\nContent-Type: text/html\r\n\r\n<p>never closed",
    b"=?utf-8?q?not_decoded_here?=\r\n=3D=20\r\n",
)
_HEADERS = (
    b"X-Folded: first\r\n\tsecond\r\n third\r\n",
    b"X-Empty:\r\n",
    b"X-Long: " + b"x" * 900 + b"\r\n",
    b"X-8bit: \xe9\xe8\r\n",
    b"Received: from a by b; Mon, 1 Jan 2026 00:00:00 +0000\r\n",
    b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=s;\r\n\th=From:To; bh=abc=;\r\n\tb=def=\r\n",
    b"x-odd-name_with.chars!#$%: yes\r\n",
    b"Subject: =?utf-8?b?xb5sdcWlb3XEjWvDvQ==?=\r\n",
    b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="b;o=u:n"\r\n',
    b'To: "quoted, comma" <a@b.example>, undisclosed:;\r\n',
)


def messages(count: int, sender: str, seed: int = 1) -> list[bytes]:
    """`count` different contents with From `sender`; each ends in CRLF, as DATA's framing demands."""
    chance = random.Random(seed)
    out = []
    for number in range(count):
        headers = [b"From: <%s>\r\n" % sender.encode(), b"Message-ID: <%d.odd@x.example>\r\n" % number]
        headers += [b"Date: Tue, 24 Nov 2026 10:00:00 +0000\r\n"]
        headers += chance.sample(_HEADERS, chance.randrange(0, 5))
        chance.shuffle(headers)
        body = b"".join(chance.choice(_BODIES) for _ in range(chance.randrange(0, 6)))
        if chance.random() < 0.1:
            body += bytes(chance.choice(b"abc \t.=") for _ in range(chance.randrange(1, 900))) + b"\r\n"
        if chance.random() < 0.02:
            body += (b"padding %d " % number + b"p" * 60 + b"\r\n") * chance.randrange(100, 5000)
        content = b"".join(headers) + b"\r\n" + body
        lines = []
        for line in content.split(b"\r\n"):
            while len(line) > 998:
                lines.append(line[:998])
                line = line[998:]
            lines.append(line)
        content = b"\r\n".join(lines)
        out.append(content if content.endswith(b"\r\n") else content + b"\r\n")
    return out
