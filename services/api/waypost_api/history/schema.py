"""Tables of the history. `VERSION` is raised when they change: an older database is dropped and rebuilt."""

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, text

VERSION = 2

metadata = MetaData()

cursor = Table(
    "cursor",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("stream_created", String(40), nullable=False),
    Column("seq", Integer, nullable=False),
)

messages = Table(
    "messages",
    metadata,
    Column("id", String(27), primary_key=True),
    Column("accepted", Float, nullable=False),
    Column("sender", String(320), nullable=False),
    Column("domain", String(253), nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("about", String(27), nullable=False),
    Column("size", Integer, nullable=False),
    Column("subject", String(200), nullable=False),
    Column("message_id", String(998), nullable=False),
    Column("credential", String(320), nullable=False),
    Column("source", String(64), nullable=False),
    Index("messages_accepted", "accepted"),
    Index("messages_sender", "sender", "accepted"),
    Index("messages_about", "about", sqlite_where=text("about <> ''"), postgresql_where=text("about <> ''")),
)

recipients = Table(
    "recipients",
    metadata,
    Column("mail", String(27), primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("address", String(320), nullable=False),
    Column("destination", String(253), nullable=False),
    Column("state", String(12), nullable=False),
    Column("rank", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt", Float, nullable=False),
    Column("code", Integer, nullable=False),
    Column("enhanced", String(12), nullable=False),
    Column("text", String(1000), nullable=False),
    Column("mta", String(253), nullable=False),
    Index("recipients_address", "address", "mail"),
    sqlite_with_rowid=False,
)

# One tree, in the order in which a message's events are read.
events = Table(
    "events",
    metadata,
    Column("mail", String(27), primary_key=True),
    Column("id", String(40), primary_key=True),
    Column("at", Float, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
