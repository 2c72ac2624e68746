"""What is handed out is whole: every package, its data, the command, and a source archive that builds and tests."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"landscape": "landscape", "ncsam": "ncsam", "landscape_cli": "cli"}  # package: where it lies here
NOT_CODE = {".pyc"}


def test_no_package_is_forgotten() -> None:
    code = "from distutils.core import run_setup as r; print(*r('setup.py', stop_after='init').packages)"
    named = run(sys.executable, "-W", "ignore", "-c", f"import setuptools; {code}", cwd=ROOT).split()
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(named) == sorted(found)


def test_every_direct_dependency_is_pinned_for_ci_and_at_its_oldest() -> None:
    from packaging.requirements import Requirement

    names = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["xarray"]]
    for pins in ("constraints.txt", "constraints-oldest.txt"):
        lines = (ROOT / pins).read_text(encoding="utf-8").splitlines()
        known = dict(line.split("==") for line in lines if line and not line.startswith("#"))
        for requirement in map(Requirement, names):
            assert requirement.specifier.contains(known[requirement.name]), (pins, requirement)
            if pins == "constraints-oldest.txt" and requirement.name != "torch":
                (lower,) = requirement.specifier
                assert requirement.specifier.contains(known[requirement.name])
                assert known[requirement.name].startswith(lower.version), requirement


def run(*command: str | Path, **options: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-3000:]
    return str(done.stdout)


def build(what: str, source: Path, out: Path) -> Path:
    """A wheel or source archive, made by the setuptools at hand, as a front end would but without downloading it."""
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}(sys.argv[1]))"
    return out / run(sys.executable, "-c", code, out, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A source archive of what git tracks, and a wheel built from that archive alone."""
    pytest.importorskip("setuptools", minversion=PROJECT["build-system"]["requires"][0].split(">=")[1])
    place = tmp_path_factory.mktemp("dist")
    try:
        tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    except (AssertionError, FileNotFoundError):
        pytest.skip("not a git checkout")
    for name in filter(None, tracked):
        (place / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "tree" / name).write_bytes((ROOT / name).read_bytes())
    sdist = build("sdist", place / "tree", place)
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (unpacked,) = (place / "unpacked").iterdir()
    return sdist, build("wheel", unpacked, place)


@pytest.mark.slow
def test_the_wheel_has_all_of_the_packages_and_nothing_else(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
        notices = {Path(name).name for name in wheel.namelist() if ".dist-info/" in name}
    here = set()
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in NOT_CODE:
                here.add(f"{package}/{path.relative_to(ROOT / folder).as_posix()}")
    assert inside == here
    assert {f"{package}/py.typed" for package in FOLDERS} <= inside
    assert "ncsam/sweep/presets/demo.toml" in inside
    assert "LICENSE" in notices


@pytest.mark.slow
def test_the_source_archive_has_tests_docs_and_notebooks(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for name in ("tests/conftest.py", "docs/method.md", "notebooks/execute.py", "constraints.txt", "CITATION.cff"):
        assert name in inside, name
    assert not [name for name in inside if name.endswith((".h5", ".pyc", ".part", ".part-wal", ".lock"))]


@pytest.mark.slow
def test_it_installs_in_a_fresh_environment_and_works_from_there(archives: tuple[Path, Path], tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python, scripts = (venv / ("Scripts" if os.name == "nt" else "bin") / name for name in ("python", "landscape"))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Dependencies come from the environment of this test; its own copy of the project, if editable, does not.
    (site / "dependencies.pth").write_text("\n".join(sorted({sysconfig.get_path("purelib"), *_further()})))
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--ignore-installed")
    run(*pip, archives[1])
    assert "Usage: landscape" in run(scripts, "--help", cwd=tmp_path)
    code = "import landscape, ncsam, landscape_cli; print(landscape.__file__, ncsam.__file__, landscape_cli.__file__)"
    for file in run(python, "-c", code, cwd=tmp_path).split():
        assert Path(file).is_relative_to(site)
    assert "demo" in run(python, "-c", "from ncsam.sweep import presets; print(*presets())", cwd=tmp_path)
    run(scripts, "train", "--noise", "symmetric:0.4", "--epochs", "1", "--out", "run.h5", "--quiet", cwd=tmp_path)
    assert (tmp_path / "run.h5").exists()


def _further() -> list[str]:
    """Folders of packages that this environment takes from elsewhere, if it does."""
    return [path for path in sys.path if path.endswith("site-packages")]


def test_version_citation_and_changelog_agree() -> None:
    from landscape import __version__

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    heading = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert heading.split()[1] == __version__
