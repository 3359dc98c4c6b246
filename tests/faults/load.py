"""A load with a ledger: many sessions that send until told to stop, and what each 250 said."""

import asyncio
import contextlib
import random


class Load:
    """`sessions` clients on one port; `acknowledged` are the tokens whose mail got a 250.

    A mail that got no answer is sent again by its client, as a real one would (RFC 5321 4.5.4.1); `unsure` are the
    tokens of mails that were once sent whole and got no answer.
    """

    def __init__(self, port: int, sessions: int = 8, seed: int = 1) -> None:
        self.port = port
        self.acknowledged: set[str] = set()
        self.unsure: set[str] = set()
        self._random = random.Random(seed)
        self._sessions = sessions
        self._stop = asyncio.Event()
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._sessions)]

    async def stop(self) -> None:
        """No new mails; each client ends what it has begun, however often it takes."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def until(self, count: int, limit: float = 60.0) -> None:
        """Returns once `count` mails have their 250."""
        async with asyncio.timeout(limit):
            while len(self.acknowledged) < count:
                await asyncio.sleep(0.01)

    async def _client(self) -> None:
        pending = ""
        while pending or not self._stop.is_set():
            try:
                async with asyncio.timeout(60):
                    pending = await self._session(pending)
            except (OSError, EOFError, TimeoutError, ConnectionError):
                await asyncio.sleep(0.05)  # the ingress is being started again

    async def _session(self, pending: str) -> str:
        """Some mails over one connection; the token that got no 250, or ""."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        token = pending
        try:
            await _reply(reader)
            writer.write(b"EHLO load.src.example\r\n")
            await _reply(reader)
            for _ in range(self._random.randrange(1, 20)):
                if not token:
                    if self._stop.is_set():
                        break
                    self._number += 1
                    token = f"t{self._number}"
                size = self._random.choice(
                    (100, 1000, 4000, 4000, 20_000, 200_000 if self._random.random() < 0.05 else 1)
                )
                content = f"From: <a@src.example>\r\nSubject: {token}\r\n\r\n".encode() + b"x" * 70 + b"\r\n"
                content += (b"y" * 76 + b"\r\n") * (size // 78)
                count = self._random.choice((1, 1, 1, 3))
                paths = (b"RCPT TO:<%s-%d@dst.example>\r\n" % (token.encode(), n) for n in range(count))
                recipients = b"".join(paths)
                writer.write(b"MAIL FROM:<a@src.example>\r\n" + recipients + b"DATA\r\n")
                for _ in range(count + 1):
                    if (await _reply(reader))[0] != 250:
                        return token  # 451 or 452: again later
                if (await _reply(reader))[0] != 354:
                    return token
                again = self.unsure.copy()
                self.unsure.add(token)
                writer.write(content + b".\r\n")
                code, _ = await _reply(reader)
                if code >= 500 or code == 452:
                    self.unsure.discard(token)
                if code != 250:
                    return token
                if token not in again:
                    self.unsure.discard(token)
                self.acknowledged.update(f"{token}-{n}" for n in range(count))
                token = ""
            writer.write(b"QUIT\r\n")
        except (OSError, EOFError):
            return token
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return token


async def _reply(reader: asyncio.StreamReader) -> tuple[int, str]:
    while True:
        line = await reader.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        if line[3:4] != b"-":
            return int(line[:3]), line[4:].decode().strip()
