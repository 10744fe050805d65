#!/usr/bin/env bash
# Makes .venv and installs what a lock file names, then the project itself (editable). May run any number of times.
#
#   scripts/setup.sh run    what `make run` needs
#   scripts/setup.sh dev    the tools and the tests as well
#
# PYTHON=/path/to/python chooses the interpreter; otherwise the newest supported one on PATH is taken.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

supported() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if supported "$candidate"; then printf '%s\n' "$candidate"; return; fi
    done
    fail "${PYTHON:-python3} is missing or older than Python 3.11. Install Python 3.11 or newer" \
         "(Debian: apt-get install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3.11"
}

make_environment() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module. On Debian and Ubuntu: apt-get install python3-venv"
    printf 'setup: making .venv with %s\n' "$("$python" --version)"
    # --clear: an environment whose interpreter is gone cannot be mended.
    "$python" -m venv --clear .venv
}

case "${1:-}" in
    run) lock=requirements.lock ;;
    dev) lock=requirements-dev.lock ;;
    *) fail "say which: scripts/setup.sh run, or scripts/setup.sh dev" ;;
esac

supported .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1 || make_environment

printf 'setup: installing %s (the first time takes a minute or so)\n' "$lock"
.venv/bin/python -m pip install --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock" |
    grep -v '^Requirement already satisfied' || [ "${PIPESTATUS[0]}" -eq 0 ] ||
    fail "the packages of $lock were not installed; see the message above. With a proxy or mirror, set pip's own settings (pip config)"
.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .

# `dev` holds everything that `run` does.
touch .venv/.installed-run
if [ "$1" = dev ]; then touch .venv/.installed-dev; fi
printf 'setup: done\n'
