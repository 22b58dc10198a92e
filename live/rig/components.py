"""Finds the real `ollama` and `toxiproxy-server`, or builds them with Go into a cache outside the checkout.

The order: the environment variable of the component, the cache, the PATH, a build. Both are Go modules, so a build
needs Go; Ollama's also needs a C++ compiler and three headers that Go's module archives leave out, because those
lie in folders named `vendor`.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from live.hands.output import last_line
from live.rig.errors import RigError

# malgo is a Go module that carries miniaudio.h; Go checks its sum like that of every module.
MINIAUDIO_MODULE = "github.com/gen2brain/malgo@v0.11.24"
# The header as Ollama's sources include it, and the Debian package that has it.
SYSTEM_HEADERS = {"nlohmann/json.hpp": "nlohmann-json3-dev", "stb/stb_image.h": "libstb-dev"}
PROGRESS_EVERY_S = 10.0
BUILD_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Component:
    """A real program that the rig runs: how it is called, overridden, built and asked for its version."""

    name: str
    version: str
    override: str
    """Environment variable that names the binary to use."""
    package: str
    """Go package, without its version."""
    link_flags: str
    needs_headers: bool


COMPONENTS: Mapping[str, Component] = {
    component.name: component
    for component in (
        # 0.24 is the last Ollama whose runner cgo builds: from 0.30 on a separate cmake build is needed.
        Component(
            name="ollama",
            version="0.24.0",
            override="OLLAMAMAX_OLLAMA",
            package="github.com/ollama/ollama",
            link_flags="-s -w -X=github.com/ollama/ollama/version.Version=0.24.0",
            needs_headers=True,
        ),
        Component(
            name="toxiproxy-server",
            version="2.12.0",
            override="OLLAMAMAX_TOXIPROXY",
            package="github.com/Shopify/toxiproxy/v2/cmd/server",
            link_flags="-s -w -X=github.com/Shopify/toxiproxy/v2.Version=2.12.0",
            needs_headers=False,
        ),
    )
}


class ComponentUnavailable(RigError):
    """A real component is neither on this machine nor can it be built here; the message says why, in one line."""


def cache_folder() -> Path:
    """Where the rig keeps what outlives a run: OLLAMAMAX_CACHE, else `~/.cache/ollamamax`."""
    override = os.environ.get("OLLAMAMAX_CACHE")
    return Path(override).expanduser().resolve() if override else Path.home() / ".cache" / "ollamamax"


def find(component: str) -> Path | None:
    """The binary of a component ("ollama", "toxiproxy-server") on this machine, without building; None if none is.

    Raises ComponentUnavailable where the environment variable of the component names no program: another one than
    the operator asked for must not be taken silently.
    """
    spec = COMPONENTS[component]
    override = os.environ.get(spec.override)
    if override:
        path = Path(override).expanduser().resolve()
        if not _is_program(path):
            raise ComponentUnavailable(f"{component}: {spec.override}={override} is not a program; correct or unset it")
        return path
    cached = _cached(spec)
    if _is_program(cached):
        return cached
    on_path = shutil.which(component)
    return Path(on_path).resolve() if on_path else None


def find_or_build(component: str) -> Path:
    """The binary of a component, built (19 s for Toxiproxy, 2 to 5 minutes for Ollama on two cores) where needed.

    Raises ComponentUnavailable with the reason in one line.
    """
    return find(component) or _build(COMPONENTS[component])


def version(path: Path) -> str:
    """The version that a binary reports, such as "0.24.0". Raises ComponentUnavailable if it reports none."""
    try:
        # Ollama asks its server for the version too; port 9 (discard) makes it say its own without waiting.
        answer = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, "OLLAMA_HOST": "127.0.0.1:9"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ComponentUnavailable(f"{path}: cannot be asked for its version: {error}") from error
    found = re.search(r"\d+\.\d+\.\d+\S*", answer.stdout + answer.stderr)
    if found is None:
        reason = last_line(answer.stdout + answer.stderr)
        raise ComponentUnavailable(f"{path}: --version names no version: {reason}")
    return found.group()


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _cached(spec: Component) -> Path:
    return cache_folder() / "bin" / f"{spec.name}-{spec.version}"


def _build(spec: Component) -> Path:
    go = shutil.which("go")
    if go is None:
        raise ComponentUnavailable(
            f"{spec.name}: not found, and there is no Go to build it with; install Go, or set {spec.override}"
        )
    target = _cached(spec)
    target.parent.mkdir(parents=True, exist_ok=True)
    log = target.with_name(f"{target.name}.log")
    # The temporary folder lies beside the target, so that the rename at the end stays in one file system.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        environment = {**os.environ, "GOBIN": scratch}
        if spec.needs_headers:
            headers = _headers(spec, go, Path(scratch) / "include")
            environment |= {"CGO_ENABLED": "1", "CGO_CFLAGS": f"-I {headers} -O2", "CGO_CXXFLAGS": f"-I {headers} -O2"}
        package = f"{spec.package}@v{spec.version}"
        _run(spec, [go, "install", "-trimpath", "-ldflags", spec.link_flags, package], log, environment)
        Path(scratch, spec.package.rpartition("/")[2]).rename(target)
    return target


def _headers(spec: Component, go: str, folder: Path) -> Path:
    """Gathers the headers that Go's module archive lacks; returns the folder for the include path."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise ComponentUnavailable(f"{spec.name}: no C++ compiler; install g++, or set {spec.override}")
    log = _cached(spec).with_name(f"{_cached(spec).name}.log")
    missing = [package for header, package in SYSTEM_HEADERS.items() if not _compiles(compiler, header)]
    if missing:
        wanted = " ".join(missing)
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise ComponentUnavailable(
                f"{spec.name}: headers for its build are missing; install them (Debian: apt-get install {wanted}), "
                f"or set {spec.override}"
            )
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        _run(spec, ["apt-get", "update"], log, quiet)
        _run(spec, ["apt-get", "install", "--yes", "--no-install-recommends", *missing], log, quiet)
    target = folder / "miniaudio" / "miniaudio.h"
    target.parent.mkdir(parents=True)
    _run(spec, [go, "mod", "download", "-json", MINIAUDIO_MODULE], log, os.environ)
    module = re.search(r'"Dir": "([^"]+)"', log.read_text(errors="replace"))
    if module is None:
        raise ComponentUnavailable(
            f"{spec.name}: go mod download does not say where {MINIAUDIO_MODULE} lies; see {log}"
        )
    shutil.copyfile(Path(module.group(1)) / "miniaudio.h", target)
    return folder


def _compiles(compiler: str, header: str) -> bool:
    """Asks the compiler itself whether it finds a header: it knows CPATH and its own folders."""
    probe = subprocess.run(
        [compiler, "-x", "c++", "-E", "-o", os.devnull, "-"],
        input=f"#include <{header}>\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return probe.returncode == 0


def _run(spec: Component, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
    """Runs one step of a build at low priority, with a line of progress now and then and its output in `log`."""
    title = f"{spec.name} {spec.version}: {Path(command[0]).name} {command[1]}"
    started_s = time.monotonic()
    # In a folder of ours, because Go heeds a go.mod that happens to lie where the operator is.
    with (
        log.open("wb") as output,
        subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=log.parent) as step,
    ):
        # Whoever works on this machine goes first.
        os.setpriority(os.PRIO_PROCESS, step.pid, 15)
        try:
            while True:
                try:
                    step.wait(PROGRESS_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    elapsed_s = time.monotonic() - started_s
                    print(f"{title}: {elapsed_s:.0f} s", file=sys.stderr, flush=True)  # noqa: T201
                    if elapsed_s > BUILD_LIMIT_S:
                        raise ComponentUnavailable(f"{title} took over {BUILD_LIMIT_S:.0f} s; see {log}") from None
        except BaseException:
            step.kill()
            raise
    if step.returncode != 0:
        reason = last_line(log.read_text(errors="replace"))
        raise ComponentUnavailable(f"{title} failed: {reason}; see {log}")


def main() -> int:
    """Finds or builds both components, prints where each is, and returns the exit status."""
    missing = 0
    for name in COMPONENTS:
        try:
            path = find_or_build(name)
            print(f"{name} {version(path)}: {path}")  # noqa: T201
        except ComponentUnavailable as error:
            missing += 1
            print(f"not available: {error}")  # noqa: T201
    # On a developer's machine the tests that need it are skipped, and say so; in CI nothing may be skipped.
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
