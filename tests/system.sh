#!/bin/sh
# Installs the programs that tests run beside Kitserve: a registry, a copier of images, a load generator, a client, Prometheus, and a browser.
set -eu
missing=""
command -v docker-registry >/dev/null || missing="$missing docker-registry"
command -v skopeo >/dev/null || missing="$missing skopeo"
command -v wrk >/dev/null || missing="$missing wrk"
command -v curl >/dev/null || missing="$missing curl"
command -v promtool >/dev/null || missing="$missing prometheus"
command -v chromium >/dev/null || missing="$missing chromium"
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null; then
    echo "tests need:$missing (names of Debian's packages); install them and try again" >&2
    exit 1
fi
run=""
[ "$(id -u)" = 0 ] || run="sudo -n"
$run apt-get update -qq || true
# shellcheck disable=SC2086
if ! $run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
    echo "tests need:$missing; install them with: sudo apt-get install$missing" >&2
    exit 1
fi
