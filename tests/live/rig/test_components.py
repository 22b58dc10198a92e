"""Finding and building the real components."""

import re
import sys
from pathlib import Path

import pytest

from live.rig.components import ComponentUnavailable, find, find_or_build, main, version


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with an empty cache, an empty PATH (so no Go either) and no overrides; gives the cache folder."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("OLLAMAMAX_CACHE", str(cache))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("OLLAMAMAX_OLLAMA", "OLLAMAMAX_TOXIPROXY", "CI"):
        monkeypatch.delenv(name, raising=False)
    return cache


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(sys.executable)
    return path


def test_an_override_wins_over_everything(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare_machine / "bin" / "ollama-0.24.0")
    monkeypatch.setenv("OLLAMAMAX_OLLAMA", sys.executable)
    assert find("ollama") == Path(sys.executable).resolve()


def test_an_override_that_is_no_program_is_an_error_that_names_it(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMAMAX_TOXIPROXY", "/nowhere/toxiproxy")
    with pytest.raises(ComponentUnavailable, match="OLLAMAMAX_TOXIPROXY=/nowhere/toxiproxy"):
        find("toxiproxy-server")


def test_the_cache_comes_before_the_path(bare_machine: Path, tmp_path: Path) -> None:
    on_path = program(tmp_path / "ollama")
    assert find("ollama") == on_path.resolve()
    cached = program(bare_machine / "bin" / "ollama-0.24.0")
    assert find("ollama") == cached


def test_without_go_the_reason_is_one_line_that_says_what_to_do(bare_machine: Path) -> None:
    with pytest.raises(ComponentUnavailable, match="no Go to build it with; install Go, or set OLLAMAMAX_OLLAMA"):
        find_or_build("ollama")


def test_a_build_that_fails_leaves_nothing_in_the_cache_and_names_its_log(
    bare_machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # /bin/false stands for a Go that gives up at once.
    (tmp_path / "go").symlink_to("/bin/false")
    with pytest.raises(ComponentUnavailable, match=r"failed: no output; see .*toxiproxy-server-2.12.0.log"):
        find_or_build("toxiproxy-server")
    assert [path.name for path in (bare_machine / "bin").iterdir()] == ["toxiproxy-server-2.12.0.log"]


@pytest.mark.parametrize(("ci", "status"), [("", 0), ("true", 1)])
def test_missing_components_fail_only_in_ci(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, status: int
) -> None:
    monkeypatch.setenv("CI", ci)
    assert main() == status
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["ollama", "toxiproxy-server"]


def test_a_program_that_names_no_version_is_an_error() -> None:
    with pytest.raises(ComponentUnavailable, match="names no version"):
        version(Path("/bin/false"))


@pytest.mark.real
def test_the_real_components_say_their_version(ollama: Path, toxiproxy_server: Path) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version(ollama))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version(toxiproxy_server))
