"""Install the pinned requirements into the running interpreter's environment; build mmcv-full against its torch.

    setup.sh            set everything up
    setup.sh --check    say in seconds what is missing for that, and download nothing

Only the standard library is used. A second run with nothing changed does nothing. An interrupted run leaves nothing
half-written: the next one goes on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 14))  # from, and below
MMCV = "1.7.2"
MMCV_SHA256 = "aa276a2c68fa84db9bbcdcf6ae941e30f0cb4a7f175bd283516669e00bab3759"
PYPI = "https://pypi.org/simple"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
# What a set-up from nothing needs: the environment is 3 GB with torch's CPU build, 6.1 with its CUDA build.
DISK_GB, CUDA_DISK_GB, MEMORY_GB = 4, 8, 3
WRITABLE = "use a folder of your own (COURSE_CACHE says where the compiled wheel is kept)."
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
        # As bytes: under another locale Python reads the same path as other characters.
        "root": os.fsencode(ROOT).hex(),
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
    run_pip("install", "--quiet", "--no-warn-script-location", *arguments)


def run_pip(*arguments: str, temporary: Path | None = None, unless: str | None = None) -> None:
    """Run pip, its temporary files in a folder if one is given; a failure is none if its words hold ``unless``."""
    environment = {**os.environ, "TMPDIR": str(temporary)} if temporary else None
    finished = subprocess.run([*PIP, *arguments], text=True, capture_output=True, env=environment)
    words = finished.stdout + finished.stderr
    if finished.returncode == 0 or (unless and unless in words):
        return
    sys.stderr.write(words)
    if "No space left on device" in words:
        raise SetupError("no disk space left while installing: free about 4 GB and run the same command again.")
    if "DO NOT MATCH THE HASHES" in words:
        raise SetupError(f"what was fetched as mmcv-full {MMCV} is not the published file: use another package index.")
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


@contextlib.contextmanager
def mmcv_wheel(torch_version: str) -> Iterator[Callable[[], Path]]:
    """The compiled mmcv-full wheel for the installed torch: compiled beside what the caller does, if none is kept yet.

    Gives a function that waits for the wheel and returns its path. Leaving early ends the compiler. A second set-up
    that wants the same wheel waits for the first.
    """
    folder = wheel_folder(torch_version)
    if not (kept := sorted(folder.glob(f"mmcv_full-{MMCV}-*.whl"))) and (words := no_compiler()):
        raise SetupError(words)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up that uses the same wheel")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(".building-*"):  # of a run that was killed: whoever builds holds the lock
            shutil.rmtree(leftover, ignore_errors=True)
        kept = kept or sorted(folder.glob(f"mmcv_full-{MMCV}-*.whl"))
        if kept:
            say(f"using the mmcv-full wheel kept in {folder}")
            yield lambda: kept[0]
            return
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch, build(Path(scratch)) as wait:

            def finished() -> Path:
                wait()
                (built,) = Path(scratch).glob("*.whl")
                return built.replace(folder / built.name)

            yield finished


def no_compiler() -> str:
    """Why nothing can be compiled here; empty if it can."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"the C++ compiler {compiler!r} was not found: install g++ (Debian: build-essential)."
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers (Python.h) were not found: install them (Debian: python3-dev of the same version)."
    return ""


@contextlib.contextmanager
def build(into: Path) -> Iterator[Callable[[], None]]:
    """Compile mmcv-full to a wheel in ``into``, in processes of its own; gives a function that waits for the end."""
    say(f"compiling mmcv-full {MMCV} against torch {installed('torch')} (once), beside the next steps")
    began = time.monotonic()
    tree = source(into)
    if not sees_gpu():
        merge_sources(tree)
    environment = {**os.environ, "MMCV_WITH_OPS": "1", "FORCE_CUDA": "0"}
    # No debug information: it takes a third of the compiler's time.
    environment["CFLAGS"] = f"{environment.get('CFLAGS', '')} -g0".strip()
    # ninja comes from the environment that is being made, which need not be activated.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    command = [*PIP, "wheel", "-v", "--no-cache-dir", "--no-deps", "--no-build-isolation", "--wheel-dir", str(into)]
    with (into / "log").open("w+") as log:
        # A group of its own, so that pip, ninja and the compilers are ended together.
        process = subprocess.Popen(
            [*command, str(tree)], stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

        def wait() -> None:
            while process.poll() is None:
                try:
                    process.wait(timeout=15)
                except subprocess.TimeoutExpired:
                    say(f"still compiling mmcv-full, {time.monotonic() - began:.0f} s")
            if process.returncode == 0:
                say(f"compiled mmcv-full in {time.monotonic() - began:.0f} s")
                return
            log.seek(0)
            words = log.read()
            sys.stderr.write("".join(words.splitlines(keepends=True)[-60:]))
            if "No space left on device" in words:
                raise SetupError("no disk space left while compiling: free about 2 GB and run the same command again.")
            if re.search(r"Killed signal|cannot allocate memory|out of memory", words, re.IGNORECASE):
                raise SetupError(f"the compiler ran out of memory: free about {MEMORY_GB} GB and run it again.")
            raise SetupError(
                "mmcv-full could not be compiled (the compiler's words are above): mend that and run again."
            )

        try:
            yield wait
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def source(into: Path) -> Path:
    """The unpacked source of mmcv-full; pip refuses a file that is not the one with the pinned SHA-256.

    To download a source pip runs its setup.py, and mmcv's stops there in Python 3.13, where a function's exec no longer
    writes into its locals() (PEP 667). By then pip has checked and unpacked the file, and with --no-clean it stays.
    """
    wanted_file = into / "source.txt"
    wanted_file.write_text(f"mmcv-full=={MMCV} --hash=sha256:{MMCV_SHA256}\n")
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--no-clean"]
    download = ["download", *options, "--dest", str(into), "-r", str(wanted_file)]
    run_pip(*download, temporary=into, unless="KeyError: '__version__'")
    for archive in into.glob("mmcv*full-*.tar.gz"):
        shutil.unpack_archive(archive, into)
    trees = [path for form in ("mmcv*full-*", "pip-*/mmcv*full_*") for path in into.glob(form) if path.is_dir()]
    if not trees:
        raise SetupError("pip left no source of mmcv-full behind: take Python 3.11 or 3.12, or another version of pip.")
    tree = trees[0]
    script = tree / "setup.py"
    words = script.read_text(encoding="utf-8").replace("version_file, 'exec'))", "version_file, 'exec'), globals())")
    script.write_text(words.replace("locals()['__version__']", "globals()['__version__']"), encoding="utf-8")
    return tree


def merge_sources(tree: Path) -> None:
    """Make two source files of mmcv's 73, nearly equal in work: each parses torch's headers, which takes longer than
    what is in most of them.

    Two files go with the operators' interfaces, because they define functions of the same name as ``roi_align``;
    ``psamask`` comes last in its file, because it defines ``min`` and ``max`` as macros.
    """
    folder = tree / "mmcv" / "ops" / "csrc" / "pytorch"
    files = sorted(path.relative_to(folder) for path in (*folder.glob("*.cpp"), *folder.glob("cpu/*.cpp")))
    apart = ("roi_align_rotated", "rotated_feature_align")
    units: tuple[list[Path], list[Path]] = ([], [])
    for file in sorted(files, key=lambda file: (file.parent.name == "cpu", file.stem == "psamask", file)):
        (folder / file).rename((folder / file).with_suffix(".inc"))
        units[file.parent.name == "cpu" and file.stem not in apart].append(file.with_suffix(".inc"))
    for name, unit in zip("ab", units, strict=True):
        lines = ["#include <torch/extension.h>", *(f'#include "{file.as_posix()}"' for file in unit)]
        (folder / f"unity_{name}.cpp").write_text("\n".join(lines) + "\n")


def sees_gpu() -> bool:
    """Whether the installed torch sees a GPU: mmcv then compiles its CUDA sources too, as they are."""
    if shutil.which("nvidia-smi") is None:
        return False
    asked = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(asked, capture_output=True).returncode == 0


def answers(address: str) -> bool:
    """Whether a package index answers within seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def install_torch(*build_tools: str) -> None:
    """torch and the build tools. Without a GPU, torch's small CPU build where PyTorch's index answers."""
    constraint = ["-c", str(ROOT / "constraints.txt")]
    if installed("torch") is None and platform.system() == "Linux" and shutil.which("nvidia-smi") is None:
        if answers(f"{CPU_TORCH}/torch/"):
            say(f"no GPU here: torch's CPU build, from {CPU_TORCH}")
            try:
                return pip(*build_tools, *constraint, "--extra-index-url", CPU_TORCH)
            except SetupError:
                say("that failed; now from the usual index")
        else:
            say(f"{CPU_TORCH} does not answer: torch as the usual index has it")
    pip(*build_tools, *constraint)


def install() -> None:
    began = time.monotonic()
    torch_version = pinned("torch")
    say("1 of 4: torch and build tools")
    install_torch(
        *(f"{name}=={pinned(name)}" for name in ("torch", "numpy", "setuptools", "wheel", "ninja", "packaging"))
    )
    importlib.invalidate_caches()
    say("2 of 4: mmcv-full")
    with mmcv_wheel(installed("torch") or torch_version) as finished:
        say("3 of 4: the other requirements")
        pip("-r", str(ROOT / "requirements.txt"))
        pip("--no-deps", "-r", str(ROOT / "requirements-nodeps.txt"))
        say("4 of 4: the course's own packages")
        pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))
        # By path and forced: an mmcv-full of the same version may be there, compiled for another torch.
        pip("--no-deps", "--force-reinstall", "--no-cache-dir", str(finished()))
    importlib.invalidate_caches()
    beside = STAMP.with_suffix(".new")
    beside.write_text(json.dumps(wanted(), indent=1))
    beside.replace(STAMP)
    say(f"done in {time.monotonic() - began:.0f} s")


def missing() -> list[str]:
    """What a set-up from nothing would lack here, a sentence each."""
    found = []
    least, below = (".".join(map(str, version)) for version in PYTHONS)
    if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        found.append(f"this is Python {platform.python_version()}: take one from {least} on and below {below}.")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append("Python cannot make environments: install its venv module (Debian: python3-venv).")
    if words := no_compiler():
        found.append(words)
    kept = wheel_folder("any")
    for place in (ROOT, next(folder for folder in kept.parents if folder.exists())):
        if not (place.is_dir() and os.access(place, os.W_OK)):
            found.append(f"nothing can be written in {place}: {WRITABLE}")
    free = shutil.disk_usage(ROOT).free / 1e9
    small = shutil.which("nvidia-smi") is None and answers(f"{CPU_TORCH}/torch/")
    if free < (needed := DISK_GB if small else CUDA_DISK_GB):
        found.append(f"{free:.1f} GB of disk are free in {ROOT}: free about {needed} GB.")
    if (memory := memory_gb()) is not None and memory < MEMORY_GB:
        found.append(f"{memory:.1f} GB of memory are free: compiling takes about {MEMORY_GB} GB.")
    index = os.environ.get("PIP_INDEX_URL") or PYPI
    if not answers(f"{index.rstrip('/')}/pip/"):
        found.append(f"the package index {re.sub('//.*@', '//', index)} does not answer: go online.")
    return found


def memory_gb() -> float | None:
    """Memory that is free for programs, in GB; None where the system does not say."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) / 1e6 if found else None


def check() -> int:
    if is_done():
        say("nothing is missing: this environment is set up.")
        return 0
    for sentence in (found := missing()):
        say(f"missing: {sentence}")
    if not found:
        say("nothing is missing: compiler, disk, memory, network and Python are there.")
    return 1 if found else 0


def main(arguments: Sequence[str]) -> int:
    if arguments and list(arguments) != ["--check"]:
        print(__doc__)
        return 0 if arguments[0] in ("-h", "--help") else 2
    try:
        if arguments:
            return check()
        if not is_done():
            install()
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            words = "no disk space left: free about 4 GB and run the same command again."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            words = f"{error.filename} cannot be written ({error.strerror}): {WRITABLE}"
        else:
            raise
        print(f"set-up: {words}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
