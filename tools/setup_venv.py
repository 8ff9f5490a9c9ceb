"""Make the virtual environment that the Makefile works in: `python3 tools/setup_venv.py .venv`.

Needs Python 3.11 and the network, nothing else. What Debian splits off its python3 package (ensurepip
in python3-venv, the C headers in libpython3-dev) is used when installed. Otherwise its packages are
downloaded and unpacked inside the environment, which needs no root and changes nothing on the
system. The versions of everything come from pyproject.toml.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def fail(message: str) -> None:
    sys.exit(f"setup: {message}")


def run(*command: str | Path, **environment: str) -> bool:
    """Run a command whose output matters only if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **environment},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
    return done.returncode == 0


def unpack_debian_package(name: str, into: Path) -> bool:
    """Fetch a Debian package and unpack it, without installing it. False if that is impossible here."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        # apt's own download user must be able to write here, else apt warns.
        Path(scratch).chmod(0o777)

        def download() -> bool:
            command = ["apt-get", "download", "-q", name]
            return subprocess.run(command, cwd=scratch, capture_output=True, check=False).returncode == 0

        # Without package lists nothing is known of any package; only root can get them.
        if not download() and not (os.geteuid() == 0 and run("apt-get", "update", "-q") and download()):
            return False
        (archive,) = glob.glob(f"{scratch}/*.deb")  # noqa: PTH207
        return run("dpkg-deb", "-x", archive, into)


def provide_pip(python: Path, debian: Path) -> None:
    """Put pip into the environment, by the first of four ways that this system offers."""
    if importlib.util.find_spec("ensurepip") and run(python, "-m", "ensurepip", "--upgrade", "--default-pip"):
        return
    if importlib.util.find_spec("pip") and run(
        sys.executable, "-m", "pip", "--python", python, "install", "pip"
    ):
        return
    if importlib.util.find_spec("virtualenv") and run(
        sys.executable, "-m", "virtualenv", python.parent.parent
    ):
        return
    if unpack_debian_package("python3-pip-whl", debian):
        for wheel in debian.glob("usr/share/python-wheels/pip-*.whl"):
            # A wheel is a zip file, and Python runs pip from inside it.
            if run(python, "-m", "pip", "install", "pip", PYTHONPATH=str(wheel)):
                return
    fail("this Python can make no virtual environment with pip: run `apt-get install python3-venv`")


def provide_headers(debian: Path) -> None:
    """Python.h, which compiling any extension needs. setup.py looks where this puts it."""
    if (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not unpack_debian_package(f"libpython{version}-dev", debian):
        fail("Python.h is missing: run `apt-get install python3-dev`")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - said here, before anything needs 3.11
        fail(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try `make PYTHON=python3.11`"
        )
    compiler = os.environ.get("CC", "gcc").split()[0]
    if not shutil.which(compiler):
        fail(f"no C compiler ({compiler}): run `apt-get install gcc libc6-dev`")

    if not run(compiler, "-x", "c", "-fsyntax-only", "-include", "stdio.h", "/dev/null"):
        fail("the C library's headers are missing: run `apt-get install libc6-dev`")

    import tomllib  # noqa: PLC0415 - only now is it known that this Python has it

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    environment = Path(sys.argv[1])
    python = environment.absolute() / "bin/python"
    debian = environment.absolute() / "debian"

    print(f"setup: virtual environment in {environment}", flush=True)
    venv.EnvBuilder(with_pip=False, symlinks=True, clear=not python.is_file()).create(environment)
    if not run(python, "-c", "import importlib.util as u; raise SystemExit(u.find_spec('pip') is None)"):
        provide_pip(python, debian)
    provide_headers(debian)

    print("setup: dependencies (pyproject.toml)", flush=True)
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["dev"],
    ]
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    if not run(*pip, *wanted):
        fail("the dependencies cannot be installed; pip's words are above (is there a network?)")

    # Just the package's place and the `hv` command: make itself builds what needs building.
    if not run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".", HV_PATHS_ONLY="1"):
        fail("`hv` cannot be installed; pip's words are above")


if __name__ == "__main__":
    main()
