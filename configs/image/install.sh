#!/bin/sh
# Installs Kitserve into /opt/kitserve, in the build of an image (Dockerfile): install.sh LOCK EXTRAS [OPTION…]
# Every package has the version of LOCK, and one of the hashes there; what LOCK does not name ends the build.
set -eu
lock=$1 extras=$2
shift 2
target=${TARGET:-/opt/kitserve}
set -- "$@" --constraints "$lock" --requirements pyproject.toml
for extra in $(echo "$extras" | tr ',' ' '); do
    set -- "$@" --extra "$extra"
done
uv venv --quiet --python "${PYTHON:-python3}" "$target"
uv pip install --python "$target" --only-binary :all: "$@"
uv pip freeze --python "$target" | cut -d= -f1 | sort >/tmp/installed
sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' "$lock" | sort >/tmp/locked
unlocked=$(comm -23 /tmp/installed /tmp/locked)
rm /tmp/installed /tmp/locked
if [ -n "$unlocked" ]; then
    echo "not in $lock, so that nothing has checked them:" $unlocked >&2
    exit 1
fi
uv pip install --python "$target" --no-deps --no-index "${WHEELS:-/wheel}"/kitserve-*.whl
