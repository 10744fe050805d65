"""Tests of all parts; the layout follows the source folders.

Looked at before the first import of gRPC: it would tell standard error, some time later, of servers
that tests end, and that is where commands are listened to.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
