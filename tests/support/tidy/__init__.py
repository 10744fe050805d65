"""The rules of the code base as functions: sources in, problems out.

A rule takes the parsed sources and returns one line for each break of it, which says where, what,
and what to do instead. tests/test_tidy.py runs all of them over the project, and each of them over
small broken snippets.
"""
