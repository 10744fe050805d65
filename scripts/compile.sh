#!/usr/bin/env bash
# Makes build/compiled from the wheel that is shipped: the packages with their hot modules as machine code, and tests/ and bench/
# to try them with. The wheel itself is in build/compiled/dist. Nothing of it touches the checkout, and nothing is compiled while
# build/compiled is as new as the sources. See docs/decisions/0013-compiling.md.
#
#   make compiled
#   PYTHONPATH=build/compiled .venv/bin/dabba dev
#   make test-compiled
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'compile: %s\n' "$*" >&2; exit 1; }

python=$PWD/.venv/bin/python
target=build/compiled
packages=(protos buckets replicas sidecar control_plane)

# Everything that the wheel depends on, and the interpreter that it is made with and for.
stamp() {
    { find "${packages[@]}" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum
      sha256sum pyproject.toml requirements-dev.lock scripts/build_hook.py README.md LICENSE NOTICE
      readlink -f "$python"; "$python" -VV; } | sha256sum
}

make_wheel() {
    "$python" -c 'import hatchling, mypyc, setuptools' 2>/dev/null ||
        fail "mypyc, setuptools and hatchling are needed. Type: make setup-dev"
    printf 'compile: compiling the hot modules (a minute or two)\n'
    rm -rf "$target.new"
    HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 "$python" -m hatchling build --target wheel --directory "$PWD/$target.new/dist"
    "$python" -m zipfile --extract "$target.new"/dist/*.whl "$target.new"
    printf '%s\n' "$now" >"$target.new/stamp"
    rm -rf "$target"
    mv "$target.new" "$target"
}

now=$(stamp)
[ "$now" = "$(cat "$target/stamp" 2>/dev/null)" ] || make_wheel

rm -rf "$target/tests" "$target/bench"
cp -r tests bench pyproject.toml "$target"
printf 'compile: %s is up to date. Run it: PYTHONPATH=%s .venv/bin/dabba dev\n' "$target" "$target"
