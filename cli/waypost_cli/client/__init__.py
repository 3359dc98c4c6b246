"""The client of the API: noun, then verb; tables for people, JSON for programs."""
