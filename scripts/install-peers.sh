#!/usr/bin/env bash
# Installs the real servers and clients that the tests talk to, from Debian's or Ubuntu's packages. Does nothing when all
# of them are there. Leaves no system service running or enabled: the tests start servers of their own, on free ports.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'peers: %s\n' "$*" >&2; exit 1; }

# what must be there -> the package that brings it
declare -A packages=(
    [/usr/share/java/zookeeper.jar]=zookeeper
    [redis-server]=redis-server
    [redis-cli]=redis-tools
    [redis-benchmark]=redis-tools
    [nghttp]=nghttp2-client
    [h2load]=nghttp2-client
    # what the doors are measured beside
    [haproxy]=haproxy
    [nutcracker]=nutcracker
    [java]=default-jre-headless
    # a second order of strings: the tests of the replicas' order compile en_US.UTF-8 with localedef
    [/usr/share/i18n/locales/en_US]=locales
    [localedef]=libc-bin
    # the models: spin writes a verifier in C, which gcc compiles
    [spin]=spin
    [gcc]=gcc
    # clocks that are wrong and step: for the sidecars of the probes
    [faketime]=faketime
    [/usr/include/stdio.h]=libc6-dev
)

# `make compiled` needs Python's headers. The distribution packs them apart; an interpreter from elsewhere has its own.
interpreter=$(readlink -f .venv/bin/python || true)
if [[ $interpreter == /usr/bin/* ]]; then
    packages[/usr/include/${interpreter##*/}/Python.h]=${interpreter##*/}-dev
fi

present() {
    case "$1" in
        /*) [ -e "$1" ] ;;
        # Servers lie where the PATH of somebody who is not root does not lead.
        *) PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    local peer
    for peer in "${!packages[@]}"; do
        present "$peer" || printf '%s\n' "${packages[$peer]}"
    done | sort -u
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

installed() { dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# A package that brings a service starts it on installation, unless /usr/sbin/policy-rc.d says no; and enables it.
policy=/usr/sbin/policy-rc.d
forbid_service_starts() {
    [ -e "$policy" ] && return
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    trap 'as_root rm -f "$policy"' EXIT
}

disable_service() {
    # Works in a container without a running systemd too: it only removes links.
    if command -v systemctl >/dev/null; then as_root systemctl disable "$1" >/dev/null 2>&1 || true; fi
    as_root update-rc.d "$1" disable >/dev/null 2>&1 || true
}

install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$@" </dev/null
}

mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" -eq 0 ] && exit 0

command -v apt-get >/dev/null ||
    fail "these packages are missing and there is no apt-get here: ${missing[*]}. Install what brings them on this system: ${!packages[*]}"
[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
    fail "these packages are missing: ${missing[*]}. As root, type: apt-get install ${missing[*]}"

printf 'peers: installing %s\n' "${missing[*]}"
# These bring a service of their name; one that somebody has installed before stays as it is.
new_services=()
for service in redis-server haproxy nutcracker; do
    installed "$service" || new_services+=("$service")
done
forbid_service_starts
# The package lists of a fresh image are empty or old: fetch them only when the first attempt fails.
install "${missing[@]}" || { as_root apt-get update && install "${missing[@]}"; } ||
    fail "apt-get could not install: ${missing[*]}. Its message is above"
for service in "${new_services[@]}"; do
    if installed "$service"; then disable_service "$service"; fi
done

mapfile -t missing < <(missing_packages)
[ "${#missing[@]}" -eq 0 ] || fail "installed, but still not found: ${missing[*]}. Check PATH: $PATH"
printf 'peers: done\n'
