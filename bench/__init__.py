"""Benchmarks. Each prints a table, and with --json writes one JSON object."""
