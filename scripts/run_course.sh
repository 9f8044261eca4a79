#!/usr/bin/env bash
# Set everything up, run the course headlessly, write build/site/index.html. Options: ./scripts/run_course.sh --help
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$("$root/scripts/setup.sh")
exec "$python" "$root/scripts/run_course.py" "$@"
