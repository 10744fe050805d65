"""The Redis protocol's commands on a keyspace: what a connection means, without its socket.

`session.py` holds one connection's state and the order of its replies, `table.py` the commands.
Nothing here imports asyncio; `sidecar/net/resp_door.py` is the shell around it.
"""
