"""Acceptance without I/O: who may send what to whom, the same for SMTP and HTTP."""
