"""Sockets: asyncio protocols of a few lines around the sans-I/O parts in sidecar.wire and
sidecar.core.
"""
