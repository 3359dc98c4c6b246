"""The soak of the queue: three engines against a next hop that defers, refuses and drops, with kills.

`remote` is the next hop and keeps the ledger, `worker` one engine with a handler that talks to it, `run` one run
(server, producer, killer), `verdict` compares the ledger with what was accepted, `broken` takes one repair out of the
procedure, to see the soak find it. Deterministic by seed as far as three processes and a killer can be.
"""
