#!/usr/bin/env bash
# Set everything up (a moment if it is), then lint, types and tests. Arguments go to pytest. The tests marked slow (they
# repeat at length what a chapter or another test shows) are left out, unless the first argument is --all.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$("$root/scripts/setup.sh")
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
if [ "${1:-}" = --all ]; then
  shift
  exec "$python" -m pytest "$@"
fi
exec "$python" -m pytest -m "not slow" "$@"
