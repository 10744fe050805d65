"""Decisions of the data path, free of I/O: events in, effects out, `now` is an argument."""
