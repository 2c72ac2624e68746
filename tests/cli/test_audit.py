"""``landscape audit``: a page, JSON and a file that is verified, of run files and of files of weights."""

from __future__ import annotations

import csv
import html.parser
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from landscape import store
from landscape.records import Status
from landscape_cli.main import run as landscape
from ncsam import models
from ncsam.records import AuditTable
from tests.cli.test_import import said

ELSEWHERE = ["--model", "mlp", "--data", "digits", "--train-samples", "120", "--test-samples", "60"]
QUICK = ["--work", "100000", "--subset", "40", "--quiet"]


class Page(html.parser.HTMLParser):
    """Tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of weights, named so that markup would show."""
    found = tmp_path_factory.mktemp("audited")
    for seed, name in enumerate(("a<i>.pt", "b.pt")):
        torch.save({"state_dict": models.build("mlp", (1, 8, 8), 10, seed=seed).state_dict()}, found / name)
    words = ["audit", str(found / "a<i>.pt"), str(found / "b.pt"), *ELSEWHERE, *QUICK]
    assert landscape([*words, "--out", str(found / "two.html")]) == 0
    return found


def test_the_page_needs_nothing_else_and_shows_what_was_measured(folder: Path) -> None:
    page = Page((folder / "two.html").read_text(encoding="utf-8"))
    tags = {tag for tag, _ in page.found}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "form", "i"})
    images = [attrs for tag, attrs in page.found if tag == "img"]
    assert len(images) == 4
    assert all(attrs["src"].startswith("data:image/") and attrs["alt"] for attrs in images)
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    links = [attrs["href"] for tag, attrs in page.found if tag == "a"]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(link.startswith(("#", "data:")) for link in links)
    for text in (
        "May it be trusted?",
        "λ₁",
        "a<i>",
        "null: shuffled weights",
        "Left out",
        "tr DHD",
        "barrier on mixed",
    ):
        assert text in page.text, text
    assert f"landscape audit {folder}" not in page.text.split("The same numbers again")[0]


def test_file_json_and_page_agree(folder: Path) -> None:
    path = folder / "two.h5"
    assert landscape(["verify", str(path)]) == 0
    with store.open(path) as file:
        table = file.record("audit")
        assert file.attrs["command"][:2] == ["landscape", "audit"]
    assert isinstance(table, AuditTable)
    data = json.loads((folder / "two.json").read_text(encoding="utf-8"))
    assert data["kind"] == "audit"
    assert (
        [c["label"] for c in data["checkpoints"]]
        == table.checkpoints.tolist()
        == ["a<i>", "b", "null: shuffled weights"]
    )
    assert all(len(c["sha256"]) == 64 for c in data["checkpoints"])
    values = {(v["checkpoint"], v["quantity"]): v for v in data["values"]}
    measured = int((table.status != Status.PENDING).sum())
    assert len(values) == measured > 30
    for (checkpoint, quantity), value in values.items():
        assert (value["value"], value["error"]) == table.of(checkpoint, quantity)
    assert data["left_out"] == table.left_out
    shown = Page((folder / "two.html").read_text(encoding="utf-8")).text
    assert f"{values['b', 'λ₁']['value']:.3g}"[:3] in shown


@pytest.mark.slow
def test_the_file_is_drawn_with_the_numbers_of_the_page(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    assert landscape(["figure", str(folder / "two.h5"), "--out", str(out), "--formats", "png", "--quiet"]) == 0
    stems = {path.stem for path in out.iterdir()}
    assert {"bands_line", "contours_mixed", "contours_test", "way_line", "density", "trace", "sharpness_sam"} <= stems
    values = json.loads((folder / "two.json").read_text(encoding="utf-8"))["values"]
    with (out / "trace.csv").open(encoding="utf-8") as file:
        drawn = {row["label"]: float(row["value"]) for row in csv.DictReader(file)}
    assert drawn == {v["checkpoint"]: v["value"] for v in values if v["quantity"] == "trace"}


@pytest.mark.slow
def test_the_command_on_the_page_gives_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    """With a time as budget the page names the work that it bought."""
    words = ["audit", str(folder / "b.pt"), *ELSEWHERE, "--subset", "32", "--null", "none", "--quiet"]
    assert landscape([*words, "--budget", "0.05s", "--out", str(tmp_path / "a.html")]) == 0
    first = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    shown = Page((tmp_path / "a.html").read_text(encoding="utf-8")).text
    again = next(line for line in shown.splitlines() if line.startswith("landscape audit"))
    assert again.endswith(f"--work {first['plan']['allowed']}")
    assert "--budget" not in again
    assert landscape([*words, "--work", str(first["plan"]["allowed"]), "--out", str(tmp_path / "b.html")]) == 0
    second = json.loads((tmp_path / "b.json").read_text(encoding="utf-8"))
    assert second["values"] == first["values"]


def test_a_run_file_by_epoch_with_a_reference(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / "a<i>.pt"), str(folder / "b.pt")]
    run = str(tmp_path / "run.h5")
    assert landscape(["import", "--weights", *files, "--epochs", "3,7", *ELSEWHERE, "--out", run, "--quiet"]) == 0
    capsys.readouterr()
    words = ["audit", run, "--reference", f"{run}@3", "--null", "fresh", *QUICK, "--out", str(tmp_path / "r.html")]
    assert landscape([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(c["label"], c["epoch"]) for c in printed["checkpoints"]][:1] == [("run@7", 7)]
    assert any(v["quantity"] == "barrier on test" for v in printed["values"])
    assert printed["files"] == [str(tmp_path / f"r.{end}") for end in ("html", "json", "h5")]
    assert landscape(words) == 2  # it exists
    assert "r.html: exists; choose another name, or --overwrite" in said(capsys)


def test_weights_that_meet_other_inputs_than_in_their_training_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run.h5")
    train = ["train", "--optimizer", "sgd", "--epochs", "5", "--noise", "none", "--quiet", "--out", run]
    assert landscape([*train, "--normalization", "none"]) == 0
    assert landscape(["export", run, "--weights", "last", "--format", "pt", "--out", str(tmp_path / "w.pt")]) == 0
    capsys.readouterr()
    words = ["audit", str(tmp_path / "w.pt"), *ELSEWHERE[:4], "--work", "3000", "--null", "none", "--quiet"]
    for stated, trusted in (("none", True), ("0/0.004", False)):
        out = tmp_path / f"{trusted}.html"
        assert landscape([*words, "--normalization", stated, "--out", str(out)]) == 0
        captured = capsys.readouterr()
        assert f"(--normalization {stated})" in captured.out.splitlines()[0]
        assert ("may the losses be trusted? yes" in captured.out) is trusted
        data = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
        assert data["checkpoints"][0]["normalization"] == stated
        assert data["checkpoints"][0]["inputs"].startswith("pixels / 16")
        (finding,) = (f for f in data["trust"]["findings"] if f["picture"] == "losses")
        assert finding["ok"] is trusted
        assert ("otherwise than here (pixels / 16, divided by 0.004)" in finding["answer"]) is not trusted
        assert data["checkpoints"][0]["inputs"] in Page(out.read_text(encoding="utf-8")).text
    assert landscape(["audit", run, "--normalization", "own", "--out", str(tmp_path / "c.html")]) == 2
    assert "run.h5: is a run file, whose normalization is none; not own: make it again" in said(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["w.pt", "--out", "a.html"], "w.pt is no run file; of a file of weights say its --model too"),
        (["w.pt", "--model", "mlp", "--out", "a.html"], "w.pt is no run file; of a file of weights say its --data too"),
        (["w.pt", "--out", "a.pdf"], "'a.pdf', expected a name that ends in .html"),
        (["w.pt", "--out", "a.html", "--budget", "soon"], "'soon', expected a time such as 90s, 10m or 1.5h"),
        (["w.pt", "--out", "a.html", "--budget", "0m"], "'0m', expected a time"),
        (["w.pt", "--out", "a.html", "--budget", "1m", "--work", "3"], "--budget and --work say the same in two ways"),
        (["w.pt", "--out", "no/a.html"], "w.pt is no run file; of a file of weights say its --model too"),
        (
            ["w.pt", *ELSEWHERE, "--normalization", "x", "--out", "a.html"],
            "normalization is 'x', expected own, none, imag",
        ),
        (["gone.h5", "--out", "a.html"], "gone.h5"),
        (["w.pt", *ELSEWHERE, "--view", "noisy_part", "--out", "a.html"], "'noisy_part' of w.pt has no samples"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(models.build("mlp", (1, 8, 8), 10, seed=0).state_dict(), "w.pt")
    assert landscape(["audit", *words]) == 2
    assert message in said(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.pt"]
