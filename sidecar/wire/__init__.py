"""Sans-I/O: bytes to messages and back. Nothing here knows asyncio, sockets or clocks."""
