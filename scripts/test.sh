#!/usr/bin/env bash
# Set everything up (a moment if it is), then lint, types and tests. Arguments go to pytest. The tests marked slow (they
# repeat at length what a chapter or another test shows) are left out, unless the first argument is --all. Two processes run
# the tests, one of them the chapters, one after the other (--dist loadgroup): together they need 20 GB. -n 0 is one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$("$root/scripts/setup.sh")
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
if [ "${1:-}" = --all ]; then
  shift
  exec "$python" -m pytest -n 2 --dist loadgroup "$@"
fi
exec "$python" -m pytest -n 2 --dist loadgroup -m "not slow" "$@"
