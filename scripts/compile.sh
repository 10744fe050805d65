#!/usr/bin/env bash
# Makes build/compiled: a copy of the project whose hot, pure modules are machine code, by mypyc. The source and the tests are the
# same. It needs a C compiler and Python's headers; nothing of it touches the checkout. See docs/decisions/0013-compiling.md.
#
#   make compiled
#   PYTHONPATH=build/compiled .venv/bin/dabba dev
#   make test-compiled
set -euo pipefail
cd "$(dirname "$0")/.."

# What runs for every operation and does no I/O. A class of the project that inherits from one of these has to be here, too.
HOT=(
    buckets/hashing.py
    replicas/commands.py replicas/link.py replicas/quorum.py replicas/record.py
    sidecar/core/coordinator.py sidecar/core/counters.py sidecar/core/fast_lane.py sidecar/core/group_write.py
    sidecar/core/health.py sidecar/core/listing.py sidecar/core/operation.py sidecar/core/peer.py sidecar/core/read.py
    sidecar/core/route.py sidecar/core/sweep.py sidecar/core/write.py
    sidecar/net/data_service.py sidecar/net/get_messages.py sidecar/net/get_service.py sidecar/net/grpcio_door.py
    sidecar/net/pipeline_service.py
    sidecar/redis/permits.py sidecar/redis/plain_gets.py sidecar/redis/session.py
    sidecar/wire/grpc.py sidecar/wire/grpc_call.py sidecar/wire/grpc_codec.py sidecar/wire/grpc_request.py
    sidecar/wire/grpc_server.py sidecar/wire/hpack_decoder.py sidecar/wire/http2.py sidecar/wire/http2_frames.py
    sidecar/wire/http2_headers.py sidecar/wire/http2_limits.py sidecar/wire/http2_outbox.py sidecar/wire/http2_settings.py
    sidecar/wire/http2_stream.py sidecar/wire/http2_streams.py sidecar/wire/resp_parser.py sidecar/wire/varint.py
)

fail() { printf 'compile: %s\n' "$*" >&2; exit 1; }

python=$PWD/.venv/bin/python
target=build/compiled

"$python" -c 'import mypyc, setuptools' 2>/dev/null ||
    fail "mypyc and setuptools are needed. Type: make setup-dev"
command -v cc >/dev/null || fail "a C compiler is needed (Debian: apt-get install gcc)"
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
[ -e "$header" ] || fail "$header is missing, which a distribution packs apart from Python (Debian: apt-get install python3-dev)"

rm -rf "$target"
mkdir -p "$target"
cp -r protos buckets replicas sidecar control_plane bench tests "$target"
cd "$target"
if ! MYPYC_OPT_LEVEL=3 "$python" -m mypyc "${HOT[@]}" >compile.log 2>&1; then
    tail -n 20 compile.log >&2
    fail "mypyc failed; all of it is in $target/compile.log"
fi
rm -rf build
cp "$OLDPWD/pyproject.toml" .  # for pytest; setuptools would take it for what is to be built
printf 'compile: %s modules compiled. Run with them: PYTHONPATH=%s .venv/bin/dabba dev\n' "${#HOT[@]}" "$target"
