"""Builds what is not plain Python: ext/*.pyx, the hot modules, and the guest images.

Everything that can be declared is declared in pyproject.toml. Three things cannot:

* ``ext/NAME.pyx`` becomes ``hypervisor.ext.NAME``. What other compiled modules may cimport from it is in
  ``hypervisor/ext/NAME.pxd``, and its types for mypy in ``NAME.pyi`` beside that. The headers of
  libunicorn and Capstone come from their wheels, and their functions are looked up at run time in the
  wheels' own libraries, so nothing but libdl is linked.
* Every module in ``HOT`` is compiled as it stands, with its augmenting ``.pxd`` if there is one beside
  it. The source stays next to the compiled form, and hypervisor/_source.py chooses between them.
* The guests are built by guests/Makefile and copied to hypervisor/images/, which is package data. Where
  the images are already there and no compiler for x86 is, those are taken (a source distribution
  carries them).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist
from setuptools.errors import SetupError

HOT: list[str] = [
    "hypervisor.devices.bus",
    "hypervisor.devices.isa_pc",
    "hypervisor.devices.pic",
    "hypervisor.devices.uart",
    "hypervisor.monitor.clock",
    "hypervisor.monitor.decode",
    "hypervisor.monitor.events",
    "hypervisor.monitor.loop",
    "hypervisor.monitor.ports",
    "hypervisor.monitor.privileged",
    "hypervisor.monitor.segments",
    "hypervisor.monitor.stack",
    "hypervisor.monitor.tasks",
    "hypervisor.monitor.transfer",
    "hypervisor.monitor.unrestartable",
    "hypervisor.monitor.vcpu",
    "hypervisor.paging.base",
    "hypervisor.paging.lazy",
    "hypervisor.paging.nested",
    "hypervisor.paging.physical",
    "hypervisor.paging.shadow",
    "hypervisor.paging.traced",
    "hypervisor.paging.walk",
]
"""Modules that a benchmark showed to be worth compiling, by their dotted names."""

IMAGES = Path("hypervisor/images")
GUESTS = Path("guests/build")
BUILD = Path("build/cython")
MANIFEST = Path("hypervisor/_compiled.json")

DECLARATIONS = "*.pxd"
"""Key of the manifest for all declarations together."""

COMPILE = ["-O2", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function", "-Wno-sign-compare"]
"""Warnings are on but for two of which generated code is full."""

OWN = [*COMPILE, "-fno-inline-functions-called-once"]
"""For ext/*.pyx: what is seldom called stays out of what often is, such as the callback before every block."""

PATHS_ONLY = bool(os.environ.get("HV_PATHS_ONLY"))
"""For `make`, which installs the package editable just for its paths and the `hv` command, and then
builds in steps of its own, so that each is done only when needed."""

CPUS = os.cpu_count() or 1

DIRECTIVES = {"language_level": 3, "embedsignature": True, "annotation_typing": False}


def wheel_include(package: str) -> str:
    """The directory with the C headers that a wheel carries."""
    include = Path(importlib.import_module(package).__file__).with_name("include")
    if not include.is_dir():
        raise SetupError(f"{package}: its installed package has no C headers at {include}")
    return str(include)


def fetched_headers() -> list[str]:
    """Where tools/setup_venv.py put Python's C headers if the system has none."""
    fetched = Path(sys.prefix) / "debian/usr/include"
    return [str(path) for path in (*sorted(fetched.glob("python3*")), fetched) if path.is_dir()]


def source_of(module: str) -> Path:
    return Path(*module.split(".")).with_suffix(".py")


def recorded() -> dict[str, str]:
    try:
        return json.loads(MANIFEST.read_text())
    except (OSError, ValueError):
        return {}


def declarations() -> str:
    """The digest of all .pxd files: Cython does not notice when that of a .py file changes."""
    whole = hashlib.sha256()
    for path in sorted(Path("hypervisor").rglob("*.pxd")):
        whole.update(str(path).encode() + path.read_bytes())
    return whole.hexdigest()


def forget_stale_forms() -> None:
    """Delete generated code whose source is not the one it was made from.

    Cython and setuptools compare file times only; what they would wrongly keep is removed here.
    """
    known = recorded()
    redeclared = known.get(DECLARATIONS) != declarations()
    for module in HOT:
        source = source_of(module)
        if redeclared or known.get(module) != hashlib.sha256(source.read_bytes()).hexdigest():
            (BUILD / source).with_suffix(".c").unlink(missing_ok=True)
            for folder in (Path(), *Path("build").glob("lib*")):
                for compiled in (folder / source).parent.glob(source.stem + ".*.so"):
                    compiled.unlink()
    if redeclared:
        for source in Path("ext").glob("*.pyx"):
            (BUILD / source).with_suffix(".c").unlink(missing_ok=True)
            for folder in (Path(), *Path("build").glob("lib*")):
                for compiled in (folder / "hypervisor/ext").glob(source.stem + ".*.so"):
                    compiled.unlink()


def extensions() -> list[Extension]:
    include = [*fetched_headers(), "ext", wheel_include("unicorn"), wheel_include("capstone")]
    own = [
        Extension(
            f"hypervisor.ext.{path.stem}",
            [str(path)],
            include_dirs=include,
            libraries=["dl"],
            extra_compile_args=OWN,
            depends=[str(h) for h in sorted(Path("ext").glob("*.[hi]*"))],
        )
        for path in sorted(Path("ext").glob("*.pyx"))
    ]
    hot = [
        Extension(
            module, [str(source_of(module))], include_dirs=fetched_headers(), extra_compile_args=COMPILE
        )
        for module in HOT
    ]
    forget_stale_forms()
    return cythonize(
        own + hot,
        build_dir=str(BUILD),
        include_path=["."],
        compiler_directives=DIRECTIVES,
        # Processes that are not forked would import a main module that is pip's, not this one.
        nthreads=CPUS if multiprocessing.get_start_method() == "fork" else 0,
        quiet=True,
    )


class BuildExtensions(build_ext):
    """Compiles, then records what the hot modules were compiled from."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or CPUS

    def run(self) -> None:
        self.check_headers()
        digests = {module: hashlib.sha256(source_of(module).read_bytes()).hexdigest() for module in HOT}
        digests[DECLARATIONS] = declarations()
        super().run()
        text = json.dumps(digests, indent=1, sort_keys=True) + "\n"
        targets = [MANIFEST] if self.inplace else [Path(self.build_lib) / MANIFEST]
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)

    def check_headers(self) -> None:
        paths = [*fetched_headers(), sysconfig.get_path("include")]
        if self.extensions and not any((Path(path) / "Python.h").is_file() for path in paths):
            raise SetupError("Python.h not found: install python3-dev, or use `make`, which fetches it")


class BuildPython(build_py):
    """Builds the guest images before the package data is collected."""

    def run(self) -> None:
        if not PATHS_ONLY:
            build_guests()
        # Collected once before run() by the constructor of some setuptools versions: collect again.
        self.__dict__.pop("data_files", None)
        super().run()


class SourceDistribution(sdist):
    """Carries the built images, so that a wheel can be built from it without a compiler for x86."""

    def run(self) -> None:
        build_guests()
        super().run()


def can_compile_guests() -> bool:
    """Is there a make, and a C compiler that makes 32-bit x86 objects?"""
    compiler = os.environ.get("GUEST_CC", os.environ.get("CC", "cc")).split()
    if not shutil.which("make") or not shutil.which(compiler[0]):
        return False
    with tempfile.TemporaryDirectory() as scratch:
        command = [*compiler, "-m32", "-ffreestanding", "-x", "c", "-c", "-o", f"{scratch}/x.o", "-"]
        return subprocess.run(command, input=b"int x;", capture_output=True, check=False).returncode == 0


def build_guests() -> None:
    """Bring hypervisor/images up to date, or say clearly why a package cannot be built."""
    if not Path("guests/Makefile").is_file():
        if not any(IMAGES.glob("*.elf")):
            raise SetupError("neither guests/Makefile nor ready guest images are here")
        return
    if can_compile_guests():
        # make's own variables would make this one a part of the make that called us.
        environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        compiler = [f"CC={environment['GUEST_CC']}"] if "GUEST_CC" in environment else []
        if subprocess.run(["make", "-s", "-C", "guests", *compiler], env=environment, check=False).returncode:
            raise SetupError("the guest images cannot be built; the compiler's messages are above")
        for image in sorted(GUESTS.glob("*.elf")):
            target = IMAGES / image.name
            if not target.is_file() or target.read_bytes() != image.read_bytes():
                shutil.copyfile(image, target)
    elif not any(IMAGES.glob("*.elf")):
        raise SetupError(
            "no guest images, and no compiler to make them: building a package needs `make` and a gcc that "
            "accepts -m32 (any x86 Debian's does; elsewhere set GUEST_CC and LD to a cross compiler's). "
            "Installing a built wheel needs neither."
        )


if __name__ == "__main__" and sys.argv[1:] == ["guests"]:
    # `python setup.py guests`: just the images, for the Makefile.
    try:
        build_guests()
    except SetupError as error:
        sys.exit(f"setup.py: {error}")
else:
    setup(
        ext_modules=[] if PATHS_ONLY else extensions(),
        cmdclass={"build_ext": BuildExtensions, "build_py": BuildPython, "sdist": SourceDistribution},
        zip_safe=False,
    )
