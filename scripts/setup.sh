#!/usr/bin/env bash
# Make the course's environment, or find it made (then it takes a moment). Uses the active virtual environment or conda
# environment if there is one, else makes .venv beside this repository's README. Prints the interpreter's path last.
# With --check it only says what is missing for that.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() { printf 'set-up: %s\n' "$1" >&2; exit 1; }
fits() { command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

check=
case "$*" in
  "") ;;
  --check) check=yes ;;
  *) echo "usage: setup.sh [--check]" >&2; exit 2 ;;
esac
if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
  python=${VIRTUAL_ENV:-$CONDA_PREFIX}/bin/python
  fits "$python" || fail "the active environment has no Python 3.11, 3.12 or 3.13: deactivate it, or make one that has."
else
  python=$root/.venv/bin/python
  if ! fits "$python"; then
    base=
    for candidate in "${COURSE_PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
      if [ -n "$candidate" ] && fits "$candidate"; then base=$candidate; break; fi
    done
    [ -n "$base" ] || fail "Python 3.11, 3.12 or 3.13 was not found: install one, or name it in COURSE_PYTHON."
    if [ -n "$check" ]; then
      python=$base
    else
      echo "set-up: making $root/.venv" >&2
      "$base" -m venv --clear "$root/.venv" || fail "the virtual environment could not be made: install the venv module (Debian: python3-venv)."
    fi
  fi
fi
[ -z "$check" ] || exec "$python" "$root/scripts/setup_environment.py" --check
"$python" "$root/scripts/setup_environment.py" >&2
echo "$python"
