#!/usr/bin/env bash
# Make the course's environment, or find it made (then it takes a moment). Uses the active virtual environment or conda
# environment if there is one, else makes .venv beside this repository's README. Prints the interpreter's path last.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { printf 'set-up: %s\n' "$1" >&2; exit 1; }
is_311() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
  python=${VIRTUAL_ENV:-$CONDA_PREFIX}/bin/python
  is_311 "$python" || fail "the active environment has no Python 3.11: deactivate it, or make one with Python 3.11."
else
  python=$root/.venv/bin/python
  if ! is_311 "$python"; then
    base=
    for candidate in "${COURSE_PYTHON:-}" python3.11 python3 python; do
      if [ -n "$candidate" ] && is_311 "$candidate"; then base=$candidate; break; fi
    done
    [ -n "$base" ] || fail "Python 3.11 was not found: install it, or name it in COURSE_PYTHON."
    echo "set-up: making $root/.venv" >&2
    "$base" -m venv --clear "$root/.venv" || fail "the virtual environment could not be made: install the venv module (Debian: python3.11-venv)."
  fi
fi
"$python" "$root/scripts/setup_environment.py" >&2
echo "$python"
