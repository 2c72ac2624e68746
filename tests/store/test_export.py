"""Results reach other programs with the same numbers, and old surface files come back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from landscape import store
from landscape.records import Line, Plane, Record, Status
from landscape.store import layouts
from landscape.store.describe import describe, render
from landscape.store.export import to_csv, to_latex, to_npz, to_xdmf
from landscape.store.export_li import read_li, write_li
from ncsam.study.table import table_of
from tests.store.samples import WEIGHTS, eigenpairs, every_kind, line, plane, run_file, same


def run(name: str, *arguments: object) -> Result:
    module = __import__(f"cli.{name}", fromlist=["command"])
    return CliRunner().invoke(module.command, [str(argument) for argument in arguments], standalone_mode=False)


@pytest.mark.parametrize("record", every_kind(), ids=lambda record: record.kind)
def test_every_kind_exports_everywhere(record: Record, tmp_path: Path) -> None:
    assert to_csv(record, tmp_path / "r.csv")[0] == tmp_path / "r.csv"
    with np.load(to_npz(record, tmp_path / "r.npz")) as found:
        for name in record.variables():
            if getattr(record, name) is not None:
                np.testing.assert_array_equal(found[name], getattr(record, name))
        assert json.loads(str(found["parameters"]))["kind"] == record.kind
    assert to_latex(record, tmp_path / "r.tex").read_text().count(r"\bottomrule") >= 1


def test_csv_is_tidy_and_exact(tmp_path: Path) -> None:
    record = plane(4, 3)
    paths = to_csv(record, tmp_path / "p.csv")
    assert [path.name for path in paths] == ["p.csv", "p-view-alpha-beta.csv", "p-direction.csv"]
    with paths[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert (rows[5]["view"], float(rows[5]["alpha"]), float(rows[5]["beta"])) == ("mixed", record.alphas[1], 2.0)
    np.testing.assert_array_equal([float(row["loss"]) for row in rows], record.loss.reshape(-1))
    with pytest.raises(store.StoreError, match="the file exists"):
        to_csv(record, tmp_path / "p.csv")


def test_latex_numbers_and_specials(tmp_path: Path) -> None:
    text = to_latex(eigenpairs(), tmp_path / "e.tex").read_text()
    assert r"pair & values & residuals & converged \\" in text
    assert r"2 & $-1$ & $0.001$ & false \\" in text
    assert r"$1\times10^{-9}$" in text
    long = Line(["50%_a"], np.arange(300.0), np.zeros((1, 300)), np.ones((1, 300), np.uint8), 1.0, 1.0, None)
    pages = to_latex(long, tmp_path / "l.tex").read_text()
    assert r"\begin{longtable}{lrrr}" in pages
    assert pages.count(r"50\%\_a & ") == 300
    assert pages.index(r"\endhead") < pages.index(r"\endfoot") < pages.index(r"50\%\_a")
    cells = table_of([{"name": "a", "arm": "sgd", "rate": 0.0, "seed": 0, "x": 1.0}])
    assert r"\begin{tabular}{}" not in to_latex(cells, tmp_path / "c.tex").read_text()  # it has no single numbers
    short = Line(["50%_a"], [0.0], [[np.nan]], np.ones((1, 1), np.uint8), 1.0, 1.0, None)
    assert r"50\%\_a & $0$ & -- & 1 \\" in to_latex(short, tmp_path / "s.tex").read_text()


def test_xdmf_points_at_the_numbers(tmp_path: Path) -> None:
    """Every reference resolves to a data set of the stated size, and the slabs pick the view they are named after."""
    path = run_file(tmp_path / "run.h5")
    expected = plane(12, 10)
    tree = ElementTree.parse(to_xdmf(expected, path, "surface/plane", tmp_path / "p.xdmf"))
    with h5py.File(path) as file:
        for item in tree.iter("DataItem"):
            if item.get("Format") == "HDF":
                name, _, inside = (item.text or "").partition(":")
                assert (tmp_path / name).samefile(path)
                assert list(file[inside].shape) == [int(size) for size in item.attrib["Dimensions"].split()]
                assert int(item.get("Precision", "1")) == file[inside].dtype.itemsize
        for attribute in tree.iter("Attribute"):
            variable, view = attribute.attrib["Name"].split()
            slab, source = list(attribute[0])
            start, step, count = np.array((slab.text or "").split(), int).reshape(3, 3)
            data = file[(source.text or "").partition(":")[2]]
            picked = data[tuple(slice(a, a + s * n, s) for a, s, n in zip(start, step, count, strict=True))]
            index = expected.views.tolist().index(view)
            np.testing.assert_array_equal(picked[0], getattr(expected, variable)[index])
        assert len(list(tree.iter("Attribute"))) == 6


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (6, 4)])
def test_export_li_goes_both_ways(rows: int, columns: int, tmp_path: Path) -> None:
    surface = plane(rows, columns)
    path = write_li(surface, tmp_path / "li.h5", views={"train": "mixed", "test": "test"})
    back = read_li(path)
    assert isinstance(back, Plane)
    np.testing.assert_array_equal(back.loss, surface.loss)
    np.testing.assert_allclose(back.accuracy, surface.accuracy, rtol=4 * np.finfo(np.float32).eps)
    assert back.views.tolist() == ["train", "test"]
    line_file = write_li(line(7), tmp_path / "line.h5", views={"train": "prüf"})
    np.testing.assert_array_equal(read_li(line_file).loss[0], line(7).loss[1])


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (6, 4)])
def test_export_li_is_what_their_tool_computes(rows: int, columns: int, tmp_path: Path) -> None:
    """Filled as their tool fills it: flat index by flat index over meshgrid(x, y), -1 for what is not computed."""
    x, y = np.linspace(-1, 1, rows), np.linspace(0, 2, columns)
    mesh_x, mesh_y = np.meshgrid(x, y)
    loss, accuracy = -np.ones((rows, columns)), -np.ones((rows, columns))
    for index in range(loss.size - 1):
        loss.reshape(-1)[index] = 10 * mesh_x.reshape(-1)[index] + mesh_y.reshape(-1)[index] + 20
        accuracy.reshape(-1)[index] = 50.0
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["dir_file"] = "some_directions.h5"
        file["xcoordinates"], file["ycoordinates"] = x, y
        file["train_loss"], file["train_acc"] = loss, accuracy
    surface = read_li(tmp_path / "old.h5")
    assert isinstance(surface, Plane)
    expected = 10 * x[:, None] + y[None, :] + 20
    computed = np.ones((rows, columns), bool)
    computed[-1, -1] = False
    np.testing.assert_array_equal(surface.loss[0][computed], expected[computed])
    assert np.isnan(surface.loss[0, -1, -1])
    assert surface.status[0, -1, -1] == Status.PENDING
    again = write_li(surface, tmp_path / "again.h5", views={"train": "train"})
    with h5py.File(again) as file:
        np.testing.assert_array_equal(file["train_loss"], loss)
        np.testing.assert_array_equal(file["train_acc"], accuracy)


def test_li_files_of_another_layout_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["xcoordinates"] = np.arange(3.0)
        file["train_loss"] = np.arange(4.0)
    with pytest.raises(store.StoreError, match=r"train_loss has shape \(4,\), expected \(3,\)"):
        read_li(tmp_path / "x.h5")
    with pytest.raises(store.StoreError, match="expected xcoordinates and train_loss"):
        read_li(run_file(tmp_path / "run.h5"))
    with pytest.raises(store.StoreError, match="there is no such file"):
        read_li(tmp_path / "no.h5")
    with pytest.raises(store.StoreError, match=r"got views .'train': 'nowhere'.; expected train="):
        write_li(plane(), tmp_path / "y.h5", views={"train": "nowhere"})


def test_inspect_shows_everything_at_a_glance(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    text = render(describe(path))
    for expected in (
        "kind run, schema 1",
        "data_hash = 0f",
        "surface/plane  plane",
        "loss(view=2, alpha=12, beta=10)",
        "    mixed  ",
        "seed = 0, tol = 1e-06, which = LM",
        "values(pair=3)",
        "conv.weight(2, 3, 4)                    float32",
    ):
        assert expected in text
    result = run("inspect", path, "--json")
    found = json.loads(result.stdout)
    assert [content["name"] for content in found["contents"]] == [
        "hessian/top3",
        "surface/plane",
        "training",
        "weights/last",
    ]
    variables = {variable["name"]: variable for variable in found["contents"][1]["variables"]}
    assert variables["loss"]["sparklines"].keys() == {"mixed", "test"}
    assert variables["status"]["statuses"] == {"ok": 240}
    assert run("inspect", path).stdout == text + "\n"


def test_inspect_shows_work_in_progress_and_damage(tmp_path: Path) -> None:
    part = store.part_path(tmp_path / "run.h5", "surface/line")
    with store.PartFile.create(part, {"seed": 4}, rows=5, fields={"loss": (2,)}) as work:
        work.write(2, loss=[1.0, 2.0])
        work.write(3, Status.FAILED)
    text = render(describe(part))
    assert "3 rows pending" in text
    assert "1 rows failed" in text
    assert run("verify", part).stdout == f"{part}: ok\n"
    with pytest.raises(store.StoreError, match=f"{part}: is work in progress; `landscape inspect` shows how far it is"):
        store.open(part)
    path = run_file(tmp_path / "run.h5")
    with h5py.File(path) as file:
        offset = file["hessian/top3/values"].id.get_offset()
    broken = bytearray(path.read_bytes())
    broken[offset] ^= 1
    path.write_bytes(broken)
    text = render(describe(path))
    assert "damaged: " in text
    assert "/hessian/top3/values does not match its SHA-256" in text
    assert "surface/plane  plane" in text


def test_the_verify_command(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    good = run("verify", path)
    assert (good.return_value, good.stdout) == (0, f"{path}: ok\n")
    path.write_bytes(path.read_bytes()[:-1])
    bad = run("verify", path, "--json")
    assert bad.return_value == 1
    assert json.loads(bad.stdout)["files"] == {
        str(path): ["the seal at its end is missing: it was cut short, or changed by another program"]
    }


@pytest.mark.parametrize(
    ("name", "target", "written"),
    [
        ("hessian/top3", "csv", ["run-hessian-top3.csv", "run-hessian-top3-pair.csv"]),
        ("weights/last", "npz", ["run-weights-last.npz"]),
        ("hessian/top3", "latex", ["run-hessian-top3.tex"]),
        ("surface/plane", "xdmf", ["run-surface-plane.xdmf"]),
        ("surface/plane", "li", ["run-surface-plane-li.h5"]),
        ("training", "h5", ["run-training.h5"]),
    ],
)
def test_the_export_command(name: str, target: str, written: list[str], tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    result = run("export", path, name, "--format", target)
    assert result.exception is None
    assert result.stdout.split()[: len(written)] == [str(tmp_path / file) for file in written]
    assert all((tmp_path / file).is_file() for file in written)
    again = run("export", path, name, "--format", target)
    assert "exists" in str(again.exception)


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link"])
@pytest.mark.parametrize(
    "arguments",
    [
        *(["training", "--format", target] for target in ("csv", "npz", "latex", "li", "h5")),
        ["weights/last", "--format", "npz"],
        ["surface/plane", "--format", "xdmf"],
    ],
)
def test_the_file_that_is_read_is_never_replaced(arguments: list[str], how: str, tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    out, before = path if how == "itself" else tmp_path / "other", path.read_bytes()
    if how != "itself":
        (out.symlink_to if how == "symbolic link" else out.hardlink_to)(path)
    result = run("export", path, *arguments, "--out", out, "--overwrite")
    assert "is the file that is read; choose another file for --out" in result.exception.message  # type: ignore[union-attr]
    assert path.read_bytes() == out.read_bytes() == before


def test_nor_by_a_table_beside_the_output(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5").rename(tmp_path / "x-pair.csv")
    before = path.read_bytes()
    result = run("export", path, "hessian/top3", "--format", "csv", "--out", tmp_path / "x.csv", "--overwrite")
    assert "x-pair.csv: is the file that is read" in result.exception.message  # type: ignore[union-attr]
    assert path.read_bytes() == before


def test_exports_keep_the_numbers(tmp_path: Path) -> None:
    path = run_file(tmp_path / "run.h5")
    run("export", path, "weights/last", "--format", "npz", "--out", tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as found:
        assert all(np.array_equal(found[key], value) for key, value in WEIGHTS.items())
    run("export", path, "training", "--format", "h5", "--out", tmp_path / "t.h5")
    assert same(store.load(tmp_path / "t.h5"), line(30))
    run("export", path, "surface/plane", "--format", "li", "--view", "test", "--out", tmp_path / "li.h5")
    run("export", tmp_path / "li.h5", "--format", "h5", "--out", tmp_path / "back.h5")
    back = store.load(tmp_path / "back.h5")
    np.testing.assert_array_equal(back.loss[0], plane(12, 10).loss[1])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "csv"], "holds hessian/top3, surface/plane, training, weights/last; give the NAME of one"),
        (["weights/last", "--format", "csv"], "holds bare arrays; export them with --format npz"),
        (["training", "--format", "xdmf"], "xdmf describes a plane"),
        (["hessian/top3", "--format", "li"], "is no line or plane"),
        (["nothing", "--format", "csv"], "there is no 'nothing'; it holds hessian/top3"),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("export", run_file(tmp_path / "run.h5"), *arguments)
    assert message in str(result.exception or "") + str(getattr(result.exception, "message", ""))


def test_verify_of_a_run_says_that_labels_and_weights_are_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "_LAYOUTS", {"run": layouts.Layout({"labels": "line"}, {"weights/*": "arrays"})})
    path = tmp_path / "run.h5"
    contents = {"labels": line(), "weights/1": WEIGHTS, "weights/30": WEIGHTS}
    store.create(path, kind="run", attrs={}, contents=contents)
    good = run("verify", path)
    assert good.stdout == f"{path}: ok; labels and weights/1, weights/30 match their SHA-256\n"
    broken = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        broken[file["weights/30/conv.weight"].id.get_offset()] ^= 1
    path.write_bytes(broken)
    bad = run("verify", path)
    assert (bad.return_value, "/weights/30/conv.weight does not match" in bad.stdout) == (1, True)
    assert "ok" not in bad.stdout


def test_verify_checks_the_layout_of_run_and_study_files(tmp_path: Path) -> None:
    """In a process of its own, where the layouts hold that `landscape verify` declares."""
    code = "import sys; from landscape_cli.main import main; sys.exit(main(sys.argv[1:]))"
    store.create(tmp_path / "run.h5", kind="run", attrs={}, contents={"training": line(), "odd": line()})
    store.create(tmp_path / "study.h5", kind="study", attrs={}, contents={})
    command = [sys.executable, "-c", code, "verify", "--json", str(tmp_path / "run.h5"), str(tmp_path / "study.h5")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd()).stdout)
    assert found["files"] == {
        str(tmp_path / "run.h5"): [
            "odd has no place in a file of kind 'run'",
            "training holds 'line', expected 'training'",
            "labels is missing, expected 'labels'",
        ],
        str(tmp_path / "study.h5"): [
            "curves is missing, expected 'curves'",
            "verdicts is missing, expected 'verdicts'",
        ],
    }
