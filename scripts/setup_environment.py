"""Install the pinned requirements into the running interpreter's environment; build mmcv-full against its torch.

Only the standard library is used. A second run with nothing changed does nothing. An interrupted run leaves nothing
half-written: the next one goes on.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MMCV = "1.7.2"
LISTS = ("requirements.txt", "constraints.txt", "requirements-nodeps.txt", "pyproject.toml")
STAMP = Path(sys.prefix) / "course-setup.json"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


class SetupError(Exception):
    """One sentence: what is wrong and what to do."""


def say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


def pinned(name: str) -> str:
    """The version of ``name`` in requirements.txt."""
    found = re.search(rf"^{re.escape(name)}==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    if found is None:
        raise SetupError(f"requirements.txt pins no {name}: check out the repository again.")
    return found[1]


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def wanted() -> dict[str, str | None]:
    """What this set-up is made from; equal to the stamp if nothing has to be done."""
    digest = hashlib.sha256()
    for name in LISTS:
        digest.update((ROOT / name).read_bytes())
    return {
        "lists": digest.hexdigest(),
        "python": platform.python_version(),
        "root": str(ROOT),
        "torch": installed("torch"),
        "mmcv-full": installed("mmcv-full"),
        "mmdet": installed("mmdet"),
    }


def is_done() -> bool:
    try:
        return bool(json.loads(STAMP.read_text()) == wanted()) and installed("mmcv-full") == MMCV
    except (OSError, ValueError):
        return False


def pip(*arguments: str) -> None:
    """Run pip install quietly; on failure show its own words, then one sentence."""
    finished = subprocess.run(
        [*PIP, "install", "--quiet", "--no-warn-script-location", *arguments], text=True, capture_output=True
    )
    if finished.returncode == 0:
        return
    sys.stderr.write(finished.stdout + finished.stderr)
    words = finished.stdout + finished.stderr
    if "No space left on device" in words:
        raise SetupError("no disk space left while installing: free about 4 GB and run the same command again.")
    if re.search(r"ConnectionError|NewConnectionError|Temporary failure in name resolution|ReadTimeout", words):
        raise SetupError("a package could not be fetched: go online and run the same command again.")
    raise SetupError("pip failed (its own words are above): mend that and run the same command again.")


def wheel_folder(torch_version: str) -> Path:
    """Where the mmcv wheel for exactly this torch, Python and machine is kept between clones and environments."""
    cache = os.environ.get("COURSE_CACHE")
    base = (
        Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskrcnn-course"
    )
    tag = f"torch-{torch_version}-cp{sys.version_info.major}{sys.version_info.minor}-{platform.machine()}"
    return base / "wheels" / tag


def mmcv_wheel(torch_version: str) -> Path:
    """The compiled mmcv-full wheel for the installed torch, built if it is not kept yet.

    pip's own cache is passed by (--no-cache-dir): it names a wheel without the torch it was compiled against, and would
    serve one that crashes.
    """
    folder = wheel_folder(torch_version)
    kept = sorted(folder.glob(f"mmcv_full-{MMCV}-*.whl"))
    if kept:
        say(f"using the mmcv-full wheel kept in {folder}")
        return kept[0]
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise SetupError(f"the C++ compiler {compiler!r} was not found: install g++ (Debian: build-essential).")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch:
        build_wheel(Path(scratch))
        (built,) = Path(scratch).glob("*.whl")
        return built.replace(folder / built.name)


def build_wheel(into: Path) -> None:
    """Compile mmcv-full, counting object files: one line that changes, or a line now and then without a terminal."""
    command = [*PIP, "wheel", "-v", "--no-cache-dir", "--no-deps", "--no-build-isolation", "--no-binary", "mmcv-full"]
    command += ["--wheel-dir", str(into), f"mmcv-full=={MMCV}"]
    environment = {**os.environ, "MMCV_WITH_OPS": "1", "FORCE_CUDA": "0", "PYTHONUNBUFFERED": "1"}
    # ninja comes from the environment that is being made, which need not be activated.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    say(f"compiling mmcv-full {MMCV} against torch {installed('torch')} (once; about 6 minutes on 2 cores)")
    began = shown = time.monotonic()
    tail: list[str] = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            tail = [*tail[-60:], line]
            count = re.match(r"\s*\[(\d+)/(\d+)\]", line)
            now = time.monotonic()
            if count and (sys.stdout.isatty() or now - shown > 15 or count[1] == count[2]):
                shown = now
                text = f"compiled {count[1]} of {count[2]} files, {now - began:.0f} s"
                if sys.stdout.isatty():
                    print(f"\rset-up: {text}", end="", flush=True)
                else:
                    say(text)
        if process.wait() != 0:
            sys.stderr.write("".join(tail))
            words = "".join(tail)
            if "No space left on device" in words:
                raise SetupError("no disk space left while compiling: free about 2 GB and run the same command again.")
            raise SetupError(
                "mmcv-full could not be compiled (the compiler's words are above): mend that and run again."
            )
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if sys.stdout.isatty():
            print()
    say(f"compiled mmcv-full in {time.monotonic() - began:.0f} s")


def install() -> None:
    began = time.monotonic()
    torch_version = pinned("torch")
    constraint = ["-c", str(ROOT / "constraints.txt")]
    say("1 of 4: torch and build tools")
    build_tools = [
        f"{name}=={pinned(name)}" for name in ("torch", "numpy", "setuptools", "wheel", "ninja", "packaging")
    ]
    pip(*build_tools, *constraint)
    importlib.invalidate_caches()
    say("2 of 4: mmcv-full")
    wheel = mmcv_wheel(installed("torch") or torch_version)
    say("3 of 4: the other requirements")
    pip("-r", str(ROOT / "requirements.txt"))
    pip("--no-deps", "-r", str(ROOT / "requirements-nodeps.txt"))
    # By path and forced: an mmcv-full of the same version may be there, compiled for another torch.
    pip("--no-deps", "--force-reinstall", "--no-cache-dir", str(wheel))
    say("4 of 4: the course's own packages")
    pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    importlib.invalidate_caches()
    beside = STAMP.with_suffix(".new")
    beside.write_text(json.dumps(wanted(), indent=1))
    beside.replace(STAMP)
    say(f"done in {time.monotonic() - began:.0f} s")


def main(arguments: Sequence[str]) -> int:
    if arguments:
        print(__doc__)
        return 0 if arguments[0] in ("-h", "--help") else 2
    try:
        if not is_done():
            install()
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print("set-up: no disk space left: free about 4 GB and run the same command again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
