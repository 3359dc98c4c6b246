"""`python -m tests.bench.dns PORT`: a DNS server that knows one MX for every domain, mail.sink.test at 127.0.0.1."""

import asyncio
import sys

import dns.flags
import dns.message
import dns.rrset


class Answers(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.AA
        question = query.question[0]
        if question.rdtype == dns.rdatatype.MX:
            answer.answer.append(dns.rrset.from_text(question.name, 3600, "IN", "MX", "10 mail.sink.test."))
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 3600, "IN", "A", "127.0.0.1"))
        self.transport.sendto(answer.to_wire(), address)


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Answers, local_addr=("127.0.0.1", port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
