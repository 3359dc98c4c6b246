"""The next hop: answers each recipient by seed (ok, temp, perm), sometimes late, sometimes dropping after the dot.

    python -m tests.faults.soak.remote SOCKET LEDGER SEED SLOW

One JSON line in (an attempt), one out (index -> [answer, how many times this recipient was asked]). The ledger gets a
line per recipient before the answer leaves: what stands there as "ok" without a drop was delivered and acknowledged.
"""

import asyncio
import hashlib
import json
import os
import random
import sys

DROP, TEMP, PERM = 0.01, 0.25, 0.10  # shares
MAX_TEMP = 5  # deferrals of one recipient


def share(*what: object) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=6).digest(), "big") / 2**48


async def main(socket: str, ledger: str, seed: str, slow: float) -> None:
    rows = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    asked: dict[tuple[str, int], int] = {}
    dice = random.Random(seed)

    def answer(question: dict, index: int) -> tuple[str, int]:
        key = (question["mail"], index)
        number = asked[key] = asked.get(key, 0) + 1
        if share(seed, "t", *key, number) < TEMP and number < MAX_TEMP:
            return "temp", number
        if question["kind"] == "mail" and share(seed, "p", *key) < PERM:
            return "perm", number
        return "ok", number

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                question = json.loads(line)
                await asyncio.sleep(dice.uniform(3.5, 7) if dice.random() < slow else dice.uniform(0.003, 0.040))
                drop = dice.random() < DROP
                answers = {index: answer(question, index) for index in question["indexes"]}
                now = asyncio.get_running_loop().time()
                lines = [
                    {**question, "indexes": None, "at": now, "index": i, "answer": a, "number": n, "drop": drop}
                    for i, (a, n) in answers.items()
                ]
                os.write(rows, b"".join(json.dumps(each).encode() + b"\n" for each in lines))
                if drop:
                    return
                await asyncio.sleep(dice.uniform(0.0, 0.004))
                writer.write(json.dumps(answers).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, socket, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
