#!/usr/bin/env bash
# Renews both lock files from pyproject.toml: exact versions and hashes, for every supported Python and platform, and
# without the address of the index they came from. UPGRADE=1 takes the newest versions; otherwise only what must change does.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v uv >/dev/null; then
    printf 'lock: uv is missing. Install it (pip install uv), then run make lock again\n' >&2
    exit 1
fi

compile() {
    local output=$1
    shift
    uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url ${UPGRADE:+--upgrade} --extra demo --group build "$@" --output-file "$output"
}

compile requirements.lock
compile requirements-dev.lock --group dev --constraints requirements.lock

if grep -nE '://|file:|--(extra-)?index|--find-links|@ /' requirements.lock requirements-dev.lock; then
    printf 'lock: the lines above name an address or a path; lock files hold names, versions and hashes only\n' >&2
    exit 1
fi

# The interpreters that scripts/setup.sh takes by itself are those that all of it can be installed on.
newest=$(.venv/bin/python -c 'from scripts.judge_python import NEWEST; print(NEWEST[1])')
for minor in $(seq 11 "$newest"); do
    if ! uv pip install --quiet --dry-run --no-deps --require-hashes --only-binary :all: --python-version "3.$minor" \
        --target build/nothing --requirements requirements-dev.lock; then
        printf 'lock: the packages named above have no wheel for Python 3.%s; hold them back, or lower NEWEST in %s\n' \
            "$minor" scripts/judge_python.py >&2
        exit 1
    fi
done
scripts/install-node-clients.sh lock
printf 'lock: requirements.lock and requirements-dev.lock are up to date\n'
