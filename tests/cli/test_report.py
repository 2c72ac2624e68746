"""``landscape report``: what the page says is what the study holds, and it needs nothing and runs nothing."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from landscape_cli.main import run as landscape
from ncsam.report import page as page_module
from ncsam.study.files import StudyFiles, write_study
from ncsam.study.table import studies, table_of
from ncsam.study.verdicts import judge
from ncsam.sweep import Sweep
from tests.ncsam.study.folder import COMMIT, SWEEP, study_rows, write_folder

HOSTILE = "<script>alert('x')</script>\"&${7*7}{{ 7*7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


class Elements(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.found if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("reported") / "mine", study_rows(controls=("matched", HOSTILE)))


@pytest.fixture(scope="module")
def path(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert landscape(["report", str(folder), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def page(path: Path) -> Elements:
    return Elements(path.read_text(encoding="utf-8"))


def test_every_verdict_stands_in_the_page_with_its_numbers_and_the_seeds_behind_them(
    folder: Path, path: Path, page: Elements
) -> None:
    verdicts = judge(studies(StudyFiles(folder).table)[0])
    text = path.read_text(encoding="utf-8")
    for i, name in enumerate(verdicts.statements):
        row = re.search(rf'<tr role="row" class="\w+">\s*<th[^>]*><a href="#study1-{name}">.*?</tr>', text, re.DOTALL)
        assert row is not None
        assert f">{verdicts.verdict[i]}</td>" in row[0]
        if verdicts.verdict[i] != "not measured":
            assert f"{verdicts.estimate[i]:+.3f}".replace("-", "−") in row[0]
    details = re.search(r'<details id="study1-T7-SAM">.*?</details>', text, re.DOTALL)
    assert details is not None
    study = studies(StudyFiles(folder).table)[0]
    gains = study.of("test_accuracy", "ncsam", 0.4) - study.of("test_accuracy", "sam", 0.4)
    for seed, gain in zip(study.seeds, gains, strict=True):
        assert re.search(rf">seed {seed}</th><td>{re.escape(f'{gain:+.4f}'.replace('-', '−'))}</td>", details[0])


def test_names_of_a_study_never_become_markup(path: Path, page: Elements) -> None:
    assert not page.of("script")
    assert "{{ 7*7 }}" in page.text
    assert HOSTILE in page.text
    assert not [attrs for _, attrs in page.found if any(name.startswith("on") for name in attrs)]
    assert "<script" not in path.read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere_and_no_folder_of_the_machine_is_told(
    folder: Path, path: Path, page: Elements
) -> None:
    assert {tag for tag, _ in page.found}.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form"})
    assert all(attrs["src"].startswith("data:image/") for attrs in page.of("img"))
    hrefs = [attrs["href"] for attrs in page.of("a")]
    assert all(h.startswith(("#", "data:", "https://arxiv.org/")) for h in hrefs)
    text = path.read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert str(folder.parent) not in text
    assert path.stat().st_size < 4_000_000


def test_the_page_can_be_read_by_any_means(page: Elements) -> None:
    assert page.of("html")[0]["lang"] == "en"
    assert len(page.of("img")) == 12
    assert all(len(attrs["alt"]) > 20 for attrs in page.of("img"))
    assert all("scope" in attrs for attrs in page.of("th"))
    assert len(page.of("table")) == len(page.of("caption"))
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for attrs in page.of("a") if attrs["href"].startswith("#")}
    assert targets <= set(ids)


def test_the_numbers_in_the_page_are_those_of_the_table(folder: Path, page: Elements) -> None:
    data = next(attrs for attrs in page.of("a") if attrs.get("download") == "numbers-study1.csv")["href"]
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(data.partition(",")[2]).decode())))
    study = studies(StudyFiles(folder).table)[0]
    assert len(rows) == len(StudyFiles(folder).names(study))
    for row in rows:
        value = study.of("test_accuracy", row["arm"], float(row["rate"]))[study.seeds.index(int(row["seed"]))]
        assert float(row["test_accuracy"]) == pytest.approx(value, rel=1e-5)
    assert any(row["arm"] == HOSTILE for row in rows)


def test_the_commands_make_the_study_again(page: Elements) -> None:
    assert f"git checkout {COMMIT}" in page.text
    for command in (
        "sweep --config study.toml --out mine/",
        "theory mine/ --secondary",
        "report mine/ --out report.html",
    ):
        assert f"landscape {command}" in page.text
    link = next(attrs for attrs in page.of("a") if attrs.get("download") == "study.toml")["href"]
    described = tomllib.loads(base64.b64decode(link.partition(",")[2]).decode())
    assert described == SWEEP
    assert len(Sweep.from_dict(described).cells()) == 3 * (2 + 2)


def test_runs_by_several_versions_of_the_code_are_told_where_only_the_study_file_is_there(tmp_path: Path) -> None:
    """The study file's own code made none of them."""
    rows = study_rows()
    root = write_folder(tmp_path / "mine", rows, runs=False)
    codes = [COMMIT if i < 5 else "f" * 40 for i in range(len(rows))]
    runs: Any = [
        SimpleNamespace(attrs={"code_version": f"0.1 ({c})", "data_hash": "d" * 64, "device": "cpu"}) for c in codes
    ]
    write_study(table_of(rows), root / "study.h5", runs, overwrite=True, plan="a" * 64)
    text = Elements(page_module.report(StudyFiles(root), followed=["missing: sam at symmetric:0.4, seed 1"])).text
    assert f"0.1 ({'f' * 40}) ({len(rows) - 5} runs); 0.1 ({COMMIT}) (5 runs)" in text
    assert "git checkout" not in text
    assert "a" * 64 in text
    assert "landscape sweep --plan plan.json --out mine/" in text
    assert "It departs from the plan:" in text
    assert "missing: sam at symmetric:0.4, seed 1." in text
    write_study(table_of(rows), root / "study.h5", runs[:1] * len(rows), overwrite=True)
    text = Elements(page_module.report(StudyFiles(root))).text
    assert f"git checkout {COMMIT}" in text
    assert "plan" not in text.partition("How to read it")[0]


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize("name", ["study.h5", "sweep.json", "tuning.json", "runs/sgd-0.4-0.h5", "tuning/try.h5"])
def test_a_file_of_the_study_is_never_replaced(
    name: str, how: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "mine"))
    (root / "tuning").mkdir()
    for file in ("tuning.json", "tuning/try.h5"):
        (root / file).write_text("null")
    path = root / name
    out, before = path if how == "itself" else tmp_path / "other", path.read_bytes()
    if how != "itself":
        (out.symlink_to if how == "symbolic link" else out.hardlink_to)(path)
    for study in (root, root / "study.h5"):
        assert landscape(["report", str(study), "--out", str(out), "--overwrite"]) == 2
        assert "is a file of the study, which is read; choose another file for --out" in capsys.readouterr().err
    assert path.read_bytes() == out.read_bytes() == before


def test_a_study_file_alone_is_reported_by_what_it_has(folder: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(folder / "study.h5", tmp_path / "study.h5"))
    drawn: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "_picture", lambda anchor, name, *_: drawn.append(name) or _no_picture(anchor))
        assert landscape(["report", str(alone), "--out", str(tmp_path / "r.html"), "--title", "A <b>", "--quiet"]) == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "training" not in drawn
    assert "their files are not at hand" in text
    assert "<title>A &lt;b&gt;</title>" in text


def test_folders_of_the_machine_are_named_by_their_last_part(tmp_path: Path) -> None:
    rows = [{**row, "data": "cifar10:/secret/place/cifar"} for row in study_rows(2)]
    root = write_folder(tmp_path / "mine", rows)
    sweep = {**SWEEP, "train": {**SWEEP["train"], "data": "cifar10:/secret/place/cifar"}}
    (root / "sweep.json").write_text(json.dumps(sweep))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "_picture", lambda anchor, *_: _no_picture(anchor))
        patch.setattr(page_module, "figures_of_study", lambda *_: {"verdicts": lambda: None})
        text = page_module.report(StudyFiles(root))
    described = next(attrs["href"] for attrs in Elements(text).of("a") if attrs.get("download") == "study.toml")
    for shown in (text, base64.b64decode(described.partition(",")[2]).decode()):
        assert "secret" not in shown
        assert "cifar10:cifar" in shown


def _no_picture(anchor: str) -> page_module.Picture:
    return page_module.Picture(anchor, "", "", "data:image/png,", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "mine", "--out", "there.html"], "there.html: exists; choose another file, or --overwrite"),
        (["report", "mine", "--out", "mine", "--overwrite"], "mine: exists; choose another file"),
        (["report", "empty", "--out", "r.html"], "holds neither study.h5 nor run files"),
        (["report", "missing.h5", "--out", "r.html"], "there is no such file"),
        (["report", "run.h5", "--out", "r.html"], "is a run file, expected a study file"),
        (["figure", "--all", "run.h5", "--out", "f"], "--all is of a study"),
        (["figure", "mine", "run.h5", "--out", "f"], "a study is drawn alone"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_refused_in_one_line(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").symlink_to(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.html").write_text("mine")
    shutil.copy(folder / "runs" / "sgd-0.4-0.h5", tmp_path / "run.h5")
    before = {p.name for p in tmp_path.iterdir()}
    assert landscape([*arguments, "--quiet"]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]
    assert {p.name for p in tmp_path.iterdir()} == before
    assert (tmp_path / "there.html").read_text() == "mine"


def test_figure_all_draws_what_the_study_and_its_runs_allow_with_the_numbers_beside(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "figures"
    assert landscape(["figure", "--all", str(folder), "--out", str(out), "--formats", "png", "--quiet"]) == 0
    stems = {p.stem for p in out.glob("*.png")}
    assert stems == {
        "verdicts", "by_measure", "radius", "against_noise", "sharpness", "arms", "flatness", "gap", "bound",
        "training", "controls", "alignment",
    }  # fmt: skip
    assert {p.stem for p in out.glob("*.csv")} == stems


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package `chromium`)")
@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_fits_phone_and_desktop_without_scrolling_sideways(width: int, path: Path, tmp_path: Path) -> None:
    # Browsers have a least window width; a frame of the wanted width has none.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!DOCTYPE html><body style="margin:0"><iframe id="f" src="{path.as_uri()}" style="width:{width}px;'
        "height:900px;border:0\"></iframe><p id=said>none</p><script>document.getElementById('f').onload = e => {"
        "const page = e.target.contentDocument.documentElement;"
        "document.getElementById('said').textContent = page.scrollWidth + ' ' + page.clientWidth;}</script></body>",
        encoding="utf-8",
    )
    dumped = subprocess.run(
        [
            str(CHROMIUM), *FLAGS, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1300,1000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    said = re.search(r'<p id="said">(\d+) (\d+)</p>', dumped.stdout)
    assert said is not None, dumped.stdout[-500:]
    assert int(said[1]) <= int(said[2]) <= width
