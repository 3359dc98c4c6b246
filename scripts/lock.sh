#!/bin/sh
# Renew the hash-pinned locks: one file per extra, and the build backend's. They name no index.
set -eu
cd "$(dirname "$0")/.."
compile() {
  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header --no-strip-extras \
    ${LOCK_UPGRADE:+--upgrade} "$@"
}
for extra in queue ingress delivery api operator cli dev check; do
  compile --extra "$extra" --no-emit-package waypost -o "requirements/$extra.txt" pyproject.toml
done
printf 'hatchling\neditables\n' | compile -o requirements/build.txt -
