"""Acceptance policy, pure: who may send as what and to whom, limits, addresses, headers, trace lines, replies.

No asyncio, no NATS, no clock: time and configuration are arguments. SMTP and HTTP ask the same functions
(`acceptance`), with lookups built once per configuration (`index.ConfigIndex`).
"""
