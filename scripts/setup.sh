#!/usr/bin/env bash
# Makes .venv and installs what a lock file names, then the project itself (editable). May run any number of times.
#
#   scripts/setup.sh run    what `make run` needs
#   scripts/setup.sh dev    the tools and the tests as well
#
# PYTHON=/path/to/python chooses the interpreter. Otherwise the first that is found and was built with profile-guided
# optimisation is taken, on PATH and then the distribution's; or the first, if none was. An environment that is there stays.
set -euo pipefail
cd "$(dirname "$0")/.."

names=(python3 python3.14 python3.13 python3.12 python3.11)
# An interpreter that somebody built often hides this one on PATH, and is often slower.
distribution=/usr/bin
no_venv='has no venv module. On Debian and Ubuntu: apt-get install python3-venv'

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

supported() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# Each of these sets `python`.
take_the_named_one() {
    python=$1
    supported "$python" || fail "$python is missing or older than Python 3.11"
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python $no_venv"
}

take_the_best() {
    local candidate verdict bare=
    python=
    for candidate in "${names[@]}" "${names[@]/#/$distribution/}"; do
        verdict=$("$candidate" -I scripts/judge_python.py 2>/dev/null) || continue
        case "$verdict" in
            optimised) python=$candidate; return ;;
            plain) python=${python:-$candidate} ;;
            bare) bare=${bare:-$candidate} ;;
        esac
    done
    if [ -n "$python" ]; then
        printf 'setup: no Python built with optimisation is found: %s is about a tenth slower. For one, install the %s\n' \
            "$python" "distribution's (Debian and Ubuntu: apt-get install python3 python3-venv), then type: make clean"
        return
    fi
    [ -z "$bare" ] || fail "$bare $no_venv"
    fail "no Python 3.11 or newer that the locked packages are made for is on PATH or in $distribution. Install one" \
         "(Debian: apt-get install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3.11"
}

make_environment() {
    if [ -n "${PYTHON:-}" ]; then take_the_named_one "$PYTHON"; else take_the_best; fi
    printf 'setup: making .venv with %s, %s\n' "$("$python" --version)" "$(command -v "$python")"
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
