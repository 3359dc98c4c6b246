"""The DATA reader against a naive one that looks at one octet after the other, under any chunking."""

import itertools
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from waypost_ingress import content as content_module
from waypost_ingress.content import ChunkReader, DataReader, Fault, line_fault

LIMIT = 4096


def naive(stream: bytes) -> tuple[list[bytes], bytes] | None:
    """Lines of the content and what is left behind the terminator; None while it has not come. RFC 5321 4.5.2."""
    lines: list[bytes] = []
    position = 0
    while True:
        end = stream.find(b"\r\n", position)
        if end < 0:
            return None
        line = stream[position:end]
        position = end + 2
        if line == b".":
            return lines, stream[position:]
        lines.append(line[1:] if line.startswith(b".") else line)


def naive_fault(lines: list[bytes]) -> bool:
    return any(b"\r" in line or b"\n" in line or b"\0" in line or len(line) > 998 for line in lines) or (
        sum(len(line) + 2 for line in lines) > LIMIT
    )


def read(stream: bytes, cuts: list[int]) -> tuple[DataReader, bytes] | None:
    """Feeds the stream in pieces; what comes behind the terminator stays in the buffer."""
    reader = DataReader(LIMIT)
    buffer = bytearray()
    bounds = sorted({cut % (len(stream) + 1) for cut in cuts} | {0, len(stream)})
    for start, end in itertools.pairwise(bounds):
        buffer += stream[start:end]
        if reader.feed(buffer):
            return reader, bytes(buffer) + stream[end:]
    return None


pieces = st.sampled_from(
    [
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b".",
        b".",
        b"\r\n.\r\n",
        b"\r",
        b"\n",
        b"..",
        b"a",
        b"text",
        b"\0",
        b"x" * 500,
        b"x" * 998,
    ]
)
streams = st.lists(pieces, max_size=24).map(b"".join)
clean = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"text", b"x" * 400]), max_size=24).map(b"".join)


@pytest.fixture(params=[content_module.SEGMENT, 1004, 1200], scope="module", autouse=True)
def _segment(request: pytest.FixtureRequest):
    """From a buffer that holds everything to one that is emptied as soon as it may be."""
    patch = pytest.MonkeyPatch()
    patch.setattr(content_module, "SEGMENT", request.param)
    yield
    patch.undo()


chunkings = st.one_of(st.lists(st.integers(0, 4000), max_size=12), st.just(list(range(2500))))  # or octet by octet


@settings(max_examples=150, deadline=None)
@given(stream=st.one_of(streams, clean), cuts=chunkings)
@example(stream=b".\r\n", cuts=[1, 2])
@example(stream=b"\r\n.\r\n.\r\n", cuts=[3, 4])
@example(stream=b"a\r\n..\r\n.\r\nQUIT\r\n", cuts=[1, 4, 5, 6, 7, 8])
@example(stream=b"x" * 3000 + b"\r\n.\r\n", cuts=[2999, 3001, 3002])
@example(stream=b"x" * 3000 + b"\r" + b".\r\n.\r\n", cuts=[3001, 3002])
def test_reads_what_a_naive_reader_reads(stream: bytes, cuts: list[int]) -> None:
    stream += b"\r\n.\r\nQUIT\r\n"
    expected = naive(stream)
    found = read(stream, cuts)
    assert expected is not None
    assert found is not None
    lines, rest = expected
    reader, left = found
    assert left == rest
    if naive_fault(lines):
        assert reader.fault is not None
    else:
        assert reader.fault is None
        assert reader.size == sum(len(line) + 2 for line in lines)
        assert reader.content() == b"".join(line + b"\r\n" for line in lines)


@settings(max_examples=100, deadline=None)
@given(stream=streams, cuts=chunkings)
def test_waits_for_a_terminator_just_as_a_naive_reader_does(stream: bytes, cuts: list[int]) -> None:
    assert (read(stream, cuts) is None) == (naive(stream) is None)


@settings(max_examples=100, deadline=None)
@given(body=st.lists(st.sampled_from([b"\r\n", b"a", b".", b"x" * 300]), max_size=12).map(b"".join), data=st.data())
def test_chunks_join_to_what_was_sent(body: bytes, data: st.DataObject) -> None:
    reader = ChunkReader(LIMIT)
    buffer = bytearray()
    position = 0
    while True:
        size = data.draw(st.integers(0, len(body) - position))
        reader.chunk(size)
        for octet in body[position : position + size]:
            buffer.append(octet)
            reader.feed(buffer)
        assert reader.feed(buffer)
        position += size
        if position == len(body):
            break
    content = reader.content()
    expected = None if len(body) <= LIMIT else Fault.SIZE
    expected = expected or line_fault(body)
    assert reader.fault is expected
    assert content == (body if expected is None else None) or expected is Fault.SIZE


@pytest.mark.parametrize(
    "variant",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r.\n", b"\n.\r", b"\r\n.\r.\r\n", b"\r\n\r.\r\n"],
)
def test_every_false_end_of_data_is_seen_as_such_and_never_as_an_end(variant: bytes) -> None:
    reader = DataReader(LIMIT)
    buffer = bytearray(b"Subject: x\r\n\r\nbody" + variant)
    assert not reader.feed(buffer)
    assert reader.false_end(buffer)


@pytest.mark.parametrize("stream", [b".", b".\r", b"a\r\n.", b"a\r\n.\r", b"a\r\n", b"a.\r\n", b"a.\r", b"", b"..\r\n"])
def test_a_terminator_on_its_way_is_no_false_end(stream: bytes) -> None:
    reader = DataReader(LIMIT)
    buffer = bytearray(stream)
    assert not reader.feed(buffer)
    assert not reader.false_end(buffer)


def test_an_endless_line_keeps_nothing_in_memory() -> None:
    reader = DataReader(LIMIT)
    buffer = bytearray()
    for _ in range(40):
        buffer += b"x" * content_module.SEGMENT
        assert not reader.feed(buffer)
        assert len(buffer) <= 1
    assert reader.fault is Fault.LINE
    buffer += b"\r\n.\r\n"
    assert reader.feed(buffer)


def test_a_whole_content_is_handed_over_and_not_kept_twice() -> None:
    text = b"a line of text\r\n"
    for reader in (DataReader(1 << 30), ChunkReader(1 << 30)):
        tracemalloc.start(1)
        try:
            buffer = bytearray()
            if isinstance(reader, ChunkReader):
                reader.chunk(len(text) * (1 << 18))
            for _ in range(1 << 8):
                buffer += text * (1 << 10)
                reader.feed(buffer)
            if isinstance(reader, DataReader):
                buffer += b".\r\n"
                assert reader.feed(buffer)
            whole = reader.content()
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert whole == text * (1 << 18)
        assert held < 1.2 * len(whole), type(reader).__name__


def test_a_mail_over_the_limit_is_forgotten_while_it_is_read() -> None:
    reader = DataReader(1000)
    buffer = bytearray()
    for _ in range(100):
        buffer += b"line\r\n" * 300
        assert not reader.feed(buffer)
        if reader.fault is not None:
            assert reader.size == 0
            assert len(buffer) <= content_module.TEXT_LINE_LIMIT
    buffer += b".\r\n"
    assert reader.feed(buffer)
    assert reader.fault is Fault.SIZE
