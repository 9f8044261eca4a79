#!/usr/bin/env bash
# Set everything up (a moment if it is), then lint, types and tests. Arguments go to pytest. The tests marked slow (they
# repeat at length what a chapter or another test shows) are left out, unless the first argument is --all. Two processes run
# the tests, each taking the next one when it is free, so that two chapters may run at once: together they took 17 GB.
# -n 0 is one process. (--dist loadgroup hands out single tests in the order of collection; with pytest 9.2 xdist 3.8 sees
# no groups.)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$("$root/scripts/setup.sh")
cd "$root"
# Not part of the set-up, for it is large and one command alone needs it. It asks for nothing that is there.
"$python" -m pip install -qq -r requirements-ray.txt || echo "Ray cannot be installed: its tests are skipped" >&2
# One thread for each of the two processes: more only wait for one another. What MALLOC_ is for is
# explained in run_course.py.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-268435456} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1073741824}
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
if [ "${1:-}" = --all ]; then
  shift
  exec "$python" -m pytest -n 2 --dist loadgroup "$@"
fi
exec "$python" -m pytest -n 2 --dist loadgroup -m "not slow" "$@"
