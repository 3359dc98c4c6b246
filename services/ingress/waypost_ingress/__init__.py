"""SMTP in: sessions, authentication, acceptance."""
