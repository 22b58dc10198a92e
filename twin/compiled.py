"""The hot modules, compiled with mypyc from the very same annotated source.

`make compiled` (part of `make run` and `make test`) builds them once into the user's cache, in a folder named by the digest
of the sources. Importing the package puts a finder in front that prefers them. A changed source has another digest, so what
is stale is never found, and the interpreter takes the source as it stands; the results are the same, bit for bit
(tests/test_compiled.py), only about three times slower. `OLLAMAMAX_COMPILED=0` switches it off.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
BUILDS_KEPT = 32
"""All checkouts of a user share them; one takes about 6 MB."""
UNFINISHED = "building-"
ABANDONED_AFTER_S = 3600.0
SETUP = """
import sys
from mypyc.build import mypycify
from setuptools import setup
arguments, sys.argv = sys.argv[1:], ["setup", "--quiet", "build_ext", "--inplace", "--parallel", "2"]
modules = mypycify(["--ignore-missing-imports", *arguments], opt_level="2", debug_level="0", multi_file=True)
setup(name="ollamamax-compiled", ext_modules=modules)
"""


def cache() -> Path:
    """Where builds lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollamamax" / "compiled"


class CompiledFinder(importlib.abc.MetaPathFinder):
    """Finds the compiled modules of one build."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder = folder
        self.package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The extension module of that name, if the build has one."""
        if not fullname.startswith(f"{self.package}.") and not fullname.endswith("__mypyc"):
            return None
        file = self.folder / (fullname.replace(".", os.sep) + SUFFIX)
        if not file.is_file():
            return None
        loader = importlib.machinery.ExtensionFileLoader(fullname, str(file))
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


class HotModules:
    """Modules that are compiled together."""

    def __init__(
        self, what: str, package: str, compiled: Sequence[str], against: Sequence[str] = (), left: Sequence[str] = ()
    ) -> None:
        """`what` they are, for people. `compiled`: files and folders of `package`, but for modules named in `left`.
        `against`: folders of it whose types they rely on; other types are left open, and looked at as they run."""
        self.what = what
        self.package = package
        self._compiled = compiled
        self._against = against
        self._left = frozenset(("__init__", *left))

    def digest(self) -> str:
        """sha256 (hex, 16 digits) of the sources, the interpreter and the processor's kind."""
        found = hashlib.sha256(f"{sys.implementation.cache_tag} {os.uname().machine} {SETUP}".encode())
        for path in _python_files(ROOT / self.package, (*self._compiled, *self._against)):
            found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
        return found.hexdigest()[:16]

    def folder(self) -> Path:
        """Where their build is, if there is one."""
        return cache() / self.digest()

    def sources(self) -> list[Path]:
        """The modules that are compiled."""
        return [it for it in _python_files(ROOT / self.package, self._compiled) if it.stem not in self._left]

    def install(self) -> None:
        """Prefer the compiled modules, where there are any for these sources."""
        if os.environ.get("OLLAMAMAX_COMPILED", "1") == "0" or not cache().is_dir():
            return
        folder = self.folder()
        if folder.is_dir():
            sys.meta_path.insert(0, CompiledFinder(folder, self.package))

    def in_use(self) -> bool:
        """Whether this process runs the compiled modules."""
        return any(isinstance(it, CompiledFinder) and it.package == self.package for it in sys.meta_path)

    def build(self) -> str:
        """Compile, unless it has been done. What is to be said of it, empty if nothing; raises `OSError` on a full disk."""
        import shutil  # noqa: PLC0415  # these four are dear at every start, and needed once
        import subprocess  # noqa: PLC0415
        import sysconfig  # noqa: PLC0415
        import tempfile  # noqa: PLC0415

        folder = self.folder()
        if folder.is_dir():
            return ""
        if shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) is None:
            return (
                f"no C compiler is here, so {self.what} runs interpreted (two to three times slower, the same results)"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=UNFINISHED) as place:
            sources = Path(place) / self.package
            shutil.copytree(ROOT / self.package, sources, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            options = [] if self._against else ["--follow-imports=skip"]
            paths = [str(path.relative_to(ROOT)) for path in self.sources()]
            made = subprocess.run(
                [sys.executable, "-c", SETUP, *options, *paths],
                cwd=place,
                env={**os.environ, "OLLAMAMAX_COMPILED": "0"},
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode:
                lines = (made.stdout + made.stderr).strip().splitlines()
                return (
                    f"{self.what} could not be compiled, so it runs interpreted: {lines[-1] if lines else 'no output'}"
                )
            ready = Path(place) / "ready"
            for file in [*Path(place).glob(f"*{SUFFIX}"), *sources.rglob(f"*{SUFFIX}")]:
                goal = ready / file.relative_to(place)
                goal.parent.mkdir(parents=True, exist_ok=True)
                file.rename(goal)
            try:
                ready.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise  # else somebody was faster
        _forget_old_builds(folder)
        return ""

    def make(self) -> None:
        """`make compiled`."""
        if os.environ.get("OLLAMAMAX_COMPILED", "1") == "0" or self.folder().is_dir():
            return
        sys.stderr.write(f"Compiling the hot modules of {self.what} (once for these sources, about a minute) ...\n")
        said = self.build()
        if said:
            sys.stderr.write(f"make: {said}\n")


SIMULATOR = HotModules(
    "the simulator",
    "twin",
    compiled=("policy", "sim", "record/packing.py"),
    against=("scenario", "record"),
    left=("parameters",),  # not hot, and made of what mypyc does not take
)


def _python_files(folder: Path, names: Sequence[str]) -> list[Path]:
    named = [folder / name for name in names]
    return sorted({path for it in named for path in (it.rglob("*.py") if it.is_dir() else [it])})


def _forget_old_builds(newest: Path) -> None:
    import shutil  # noqa: PLC0415

    others = sorted((it for it in newest.parent.iterdir() if it != newest), key=lambda it: it.stat().st_mtime)
    broken_off = [it for it in others if it.name.startswith(UNFINISHED)]
    builds = [it for it in others if not it.name.startswith(UNFINISHED)]
    long_ago_s = newest.stat().st_mtime - ABANDONED_AFTER_S
    for old in [*builds[: -BUILDS_KEPT + 1], *(it for it in broken_off if it.stat().st_mtime < long_ago_s)]:
        shutil.rmtree(old, ignore_errors=True)
