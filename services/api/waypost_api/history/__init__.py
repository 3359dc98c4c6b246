"""History: what EVENTS told, in SQL. A projection: delete it, and it is rebuilt from the stream."""
