"""Sweeps on Dask: an in-process cluster in the quick suite, a scheduler and workers over loopback in the slow one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from landscape import store
from landscape.store.lock import sole
from landscape_cli.main import run as landscape
from ncsam import Run
from ncsam.sweep import Cluster, Sweep, SweepFolder, cluster
from ncsam.sweep.cells import Cell

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

TRAIN = {"epochs": 1, "train_samples": 100}
TWO = {"seeds": 1, "noise": ["symmetric:0.4"], "arms": [{"optimizer": "sgd"}, {"optimizer": "sam"}], "train": TRAIN}
TUNED = {**TWO, "tune": {"seeds": [100], "lr": [0.02, 0.1]}}
FLAGS = ["sweep", "--optimizer", "sgd,sam", "--noise", "symmetric:0.4", "--seeds", "3", "--epochs", "1"]
FLAGS += ["--train-samples", "100", "--measure", "sharpness", "--quiet"]
NAMES = {f"{arm}-symmetric-0.4-seed{seed}" for arm in ("sgd", "sam") for seed in range(3)}

# Runs in every worker before its first cell: who was at which run and when, and what the test wants to happen there.
PRELOAD = """
import contextlib, json, os, signal, threading, time
from pathlib import Path
import ncsam.sweep.cells as cells

HERE = Path(os.environ["LOOPBACK"])  # a preloaded file is copied elsewhere, and executed twice
whole = getattr(cells.sole, "whole", cells.sole)

def note(what, name):
    with open(HERE / "events", "a") as file:
        file.write(json.dumps([what, name, os.getpid(), time.time()]) + "\\n")

@contextlib.contextmanager
def sole(path, purpose, told):
    with whole(path, purpose, told):  # a cell has begun when its lock is held
        once = HERE / f"{path.stem}.once"
        plan = json.loads((HERE / "plan.json").read_text()).get(path.stem)
        note("begin", path.stem)
        if plan == "kill" or (plan == "kill once" and not once.exists()):
            once.touch()
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
            while True:
                time.sleep(0.01)
        if plan == "stop once" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        if plan == "slow":
            time.sleep(1.0)
        if plan == "very slow":
            time.sleep(8.0)
        yield
        note("end", path.stem)

sole.whole = whole
cells.sole = sole
"""


def wait_for(what: object, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@dataclasses.dataclass
class Loopback:
    """A scheduler and two workers, each under a nanny that starts it anew, in processes of their own."""

    here: Path
    address: str
    scheduler: subprocess.Popen[bytes]

    def events(self) -> list[tuple[str, str, int, float]]:
        path = self.here / "events"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


@contextlib.contextmanager
def loopback(here: Path, preload: str = PRELOAD, nanny: bool = True, **settings: str) -> Iterator[Loopback]:
    here.mkdir()
    (here / "preload.py").write_text(preload)
    (here / "plan.json").write_text("{}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOOPBACK": str(here)}
    environment |= {f"DASK_DISTRIBUTED__{name.upper()}": value for name, value in settings.items()}
    file = here / "scheduler.json"

    def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments, "--host", "127.0.0.1"]
        return subprocess.Popen(
            [*command, "--no-dashboard"], env=environment, stdout=log, stderr=log, start_new_session=True
        )

    with (here / "log").open("wb") as log, contextlib.ExitStack() as stack:
        processes = [start("scheduler", "--port", "0", "--scheduler-file", str(file))]
        stack.callback(end, processes)
        wait_for(lambda: file.exists() and file.read_text())
        address = json.loads(file.read_text())["address"]
        arguments = ["--nthreads", "1", "--local-directory", str(here), "--preload", str(here / "preload.py")]
        arguments += [] if nanny else ["--no-nanny"]
        processes += [start("worker", address, *arguments) for _ in range(2)]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=300)
        yield Loopback(here, address, processes[0])


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Each with what it started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    # Port 0: Dask warns where the port of its HTTP server is taken, by another test run for one.
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


def test_tuning_and_runs_give_the_files_of_a_run_here(client: object, tmp_path: Path) -> None:
    folder = SweepFolder.create(Sweep.from_dict(TUNED), tmp_path)
    with Cluster(client) as ours:  # type: ignore[arg-type]
        ours.check(folder.description)
        assert folder.tune(ours.run_cells, (1, 2)) == ([], [])  # the other part is not there yet
        assert len(folder.tuning_status().complete) == len(folder.tuning_status().pending) == 2
        failures, choices = folder.tune(ours.run_cells, (2, 2))
        assert (failures, len(choices)) == ([], 2)
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "sam-symmetric-0.4-seed0.h5").write_text("not a run file")
        failures = folder.run(folder.cells(), ours.run_cells)
    assert [(f.cell.name, f.reason.split(":")[0]) for f in failures] == [("sam-symmetric-0.4-seed0", "StoreError")]
    good = folder.cells()[0]
    assert good.complete(good.path(folder.runs))
    assert folder.status().damaged == ["sam-symmetric-0.4-seed0"]
    assert folder.tuning_status().unfinished == []
    good.run(tmp_path / "here.h5")
    with store.open(good.path(folder.runs)) as theirs, store.open(tmp_path / "here.h5") as here:
        weights = here.arrays("weights/1")
        assert all(np.array_equal(array, weights[name]) for name, array in theirs.arrays("weights/1").items())
    assert client.status == "running"  # type: ignore[attr-defined]  # ours to close


def test_a_replay_waits_for_its_source_and_fails_with_it(client: object, tmp_path: Path) -> None:
    arms = [{"optimizer": "replay", "like": "sam"}, {"optimizer": "sam"}]
    train = {"epochs": 1, "train_samples": 100, "warmup": 0.0}
    sweep = Sweep.from_dict({"seeds": 2, "noise": ["none"], "train": train, "arms": arms})
    folder = SweepFolder.create(sweep, tmp_path)
    folder.runs.mkdir()
    (folder.runs / "sam-none-seed1.h5").write_text("not a run file")
    with Cluster(client) as ours:  # type: ignore[arg-type]
        failures = folder.run(folder.cells(), ours.run_cells)
    reasons = {failure.cell.name: failure.reason for failure in failures}
    assert set(reasons) == {"sam-none-seed1", "replay-none-seed1"}
    assert reasons["replay-none-seed1"] == "the run that it replays, sam-none-seed1, failed; mend that and --resume"
    assert sorted(folder.status().complete) == ["replay-none-seed0", "sam-none-seed0"]


def test_a_cell_that_another_process_is_at_is_tried_again(
    client: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cluster, "AGAIN", 0.1)
    first, second = Sweep.from_dict(TWO).cells()
    with contextlib.ExitStack() as other:
        other.enter_context(sole(first.path(tmp_path), "cell", ""))
        ended = []

        def progress(items, total):  # type: ignore[no-untyped-def]
            for cell in items:
                ended.append(cell)
                other.close()
                yield cell

        with Cluster(client) as ours:  # type: ignore[arg-type]
            assert ours.run_cells([first, second], tmp_path, progress=progress) == []
    assert [cell.name for cell in ended] == [second.name, first.name]
    assert f"another process is at this run; wait until it is done ({os.uname().nodename}, process" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{c.name}.h5" for c in (first, second))


def test_a_worker_that_would_give_other_numbers_is_told_so(tmp_path: Path) -> None:
    def asked(threads: int = 1, path: Path = tmp_path, **different: str) -> str | None:
        expected = {**cluster.versions(), **different}
        worker = SimpleNamespace(state=SimpleNamespace(nthreads=threads))
        return cluster.unfit(expected, (str(path / "token"), "secret"), worker)  # type: ignore[arg-type]

    (tmp_path / "token").write_text("secret")

    assert asked() is None
    torch = cluster.versions()["torch"]
    assert asked(torch="1.0") == (
        f"has torch {torch}, where the sweep was started it is torch 1.0; install the same in both places"
    )
    for name in ("ncsam-landscape", "numpy", "python", "code"):
        assert f"is {name} 0.0" in str(asked(**{name: "0.0"}))
    assert "--nthreads 1" in str(asked(threads=4))
    assert "does not see" in str(asked(path=tmp_path / "nowhere"))
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "token").write_text("of another sweep")
    assert "or another of that name; use one that all" in str(asked(path=tmp_path / "local"))
    description = tmp_path / "sweep.json"
    assert "file system with working locks" in str(cluster.unlocked(str(description)))
    with sole(description, "check", ""):
        assert cluster.unlocked(str(description)) is None


def test_cells_travel_as_json(tmp_path: Path) -> None:
    for cell in Sweep.preset("digits").cells():
        assert Cell.from_dict(json.loads(json.dumps(cell.to_dict()))) == cell


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://no.such.host.invalid:8786", "ws://127.0.0.1:1"])
def test_a_scheduler_that_does_not_answer_is_one_line(address: str) -> None:
    with pytest.raises(ConnectionError, match=f"no Dask scheduler answers at {address} within 0.3 s; start") as error:
        Cluster(address, timeout=0.3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    ["", "nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "tcp://127.0.0.1:99999", "tpc://127.0.0.1:8786", "tcp://[::1",
     "http://127.0.0.1:8786", "tcp://a b:1", "tcp://127.0.0.1:8786/x", "127.0.0.1:8786"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_at_once(
    address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert landscape([*FLAGS, "--out", str(tmp_path / "out"), "--scheduler", address]) == 2
    assert time.monotonic() - began < 5
    (line,) = capfd.readouterr().err.splitlines()
    assert f"--scheduler is {address!r}, expected an address such as tcp://host:8786" in line
    assert not list(tmp_path.iterdir())


def test_a_port_at_which_something_else_listens_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no Dask scheduler answers at {address}"):
            Cluster(address, timeout=0.5)


def test_certificates_that_are_missing_are_asked_for() -> None:
    with pytest.raises(ValueError, match="needs certificates"):
        Cluster("tls://127.0.0.1:8786")


def test_workers_that_are_paused_are_told_once_and_get_no_cells(caplog: pytest.LogCaptureFixture) -> None:
    states = {"tcp://a:1": "running", "tcp://b:2": "paused"}

    class Client:
        status, scheduler = "running", SimpleNamespace(address="tcp://s:1")

        def nthreads(self) -> dict[str, int]:
            return dict.fromkeys(states, 1)

        def scheduler_info(self, n_workers: int) -> dict[str, object]:
            return {"workers": {a: {"status": state, "memory_limit": 1 << 30} for a, state in states.items()}}

    ours = Cluster(Client())  # type: ignore[arg-type]
    for states["tcp://b:2"], count in (("paused", 1), ("paused", 1), ("running", 2), ("paused", 1)):
        ours._asked_at = -cluster.POLL
        assert ours.workers() == count
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert "worker tcp://b:2 is paused: it uses most of the 1 GiB of memory" in told[0]
    assert "--memory-limit" in told[0]


def test_a_worker_without_the_folder_writes_nothing(
    client: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = Sweep.from_dict(TWO).cells()
    whole = cluster.folder_token

    @contextlib.contextmanager
    def elsewhere(folder: Path) -> Iterator[tuple[str, str]]:
        with whole(folder) as (path, _):
            yield path, "what the client sees"

    monkeypatch.setattr(cluster, "folder_token", elsewhere)
    with Cluster(client) as ours, pytest.raises(ValueError, match="does not see"):  # type: ignore[arg-type]
        ours.run_cells([first], tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_contradicts_a_cluster_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for more in (["--workers", "2"], ["--shard", "1/2"]):
        assert landscape([*FLAGS, "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:1", *more]) == 2
        assert "leave --workers and --shard out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_worker_and_a_deadly_cell_cost_nothing_but_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with loopback(tmp_path / "cluster", scheduler__allowed_failures="2") as dask:
        (dask.here / "plan.json").write_text(
            json.dumps({"sgd-symmetric-0.4-seed0": "kill once", "sam-symmetric-0.4-seed1": "kill"})
        )
        assert landscape([*FLAGS, "--out", str(out), "--scheduler", dask.address]) == 1
        # Both workers may be down for a moment: that is a warning, and then they are there again.
        lines = capsys.readouterr().err.splitlines()
        first, last = (line for line in lines if line.startswith("landscape: error: "))
        assert "sam-symmetric-0.4-seed1: its worker died 3 times, the last time tcp://127.0.0.1:" in first
        assert last == "landscape: error: 1 of 6 runs failed; repeat with --resume"
        begun = [(name, who) for what, name, who, _ in dask.events() if what == "begin"]
        assert [name for name, _ in begun].count("sam-symmetric-0.4-seed1") == 3
        # Not exactly two: where a worker dies with a result that the client has not fetched yet, another one looks at
        # the run again, and finds it complete.
        assert len({who for name, who in begun if name == "sgd-symmetric-0.4-seed0"}) >= 2
        files = {path.stem: path.stat().st_mtime_ns for path in (out / "runs").glob("*.h5")}
        assert set(files) == NAMES - {"sam-symmetric-0.4-seed1"}
        assert not (out / "study.h5").exists()
        (dask.here / "plan.json").write_text("{}")
        assert landscape([*FLAGS, "--out", str(out), "--scheduler", dask.address, "--resume"]) == 0
    assert files == {name: (out / "runs" / f"{name}.h5").stat().st_mtime_ns for name in files}
    with store.open(out / "study.h5") as file:
        assert sorted(file.record("cells").names.tolist()) == sorted(NAMES)
    assert {path.name for path in (out / "runs").iterdir()} == {f"{name}.h5" for name in NAMES}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_no_two_workers_are_at_one_run_when_the_scheduler_gives_up_a_frozen_one(tmp_path: Path) -> None:
    out, frozen = tmp_path / "out", "sgd-symmetric-0.4-seed0"
    with loopback(tmp_path / "cluster", nanny=False, scheduler__worker_ttl="15s") as dask:
        (dask.here / "plan.json").write_text(json.dumps({frozen: "stop once"}))
        command = [sys.executable, "-m", "landscape_cli", *FLAGS, "--out", str(out), "--scheduler", dask.address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: any(name == frozen for _, name, *_ in dask.events()))
            pid = next(pid for _, name, pid, _ in dask.events() if name == frozen)
            try:
                for line in process.stderr:  # type: ignore[union-attr]
                    if "another process is at this run" in line:  # the other worker has met the lock
                        break
                else:
                    pytest.fail("the run was given to another worker, or to none")
                assert f"process {pid})" in line
                others = [(what, name) for what, name, *_ in dask.events() if name == frozen]
                assert others == [("begin", frozen)]
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            assert process.wait() == 0
        at: dict[str, int] = {}
        for what, name, who, _ in dask.events():
            if what == "begin":
                assert at.get(name) in (None, pid), f"{name} was begun by {who} while {at[name]} was at it"
                at[name] = who
            else:
                assert at.pop(name) == who
    with store.open(out / "study.h5") as file:
        assert sorted(file.record("cells").names.tolist()) == sorted(NAMES)
    assert Run(out / "runs" / f"{frozen}.h5").names


PAUSING = """
import threading

def dask_setup(worker):
    manager = worker.memory_manager
    if hasattr(manager, "memory_pause_fraction"):  # a worker's, not a nanny's
        threading.Timer(3.0, setattr, (manager, "memory_pause_fraction", 1e-6)).start()
"""


@pytest.mark.slow
def test_paused_workers_are_told_within_ten_seconds(tmp_path: Path) -> None:
    settings = {"worker__memory__monitor_interval": "100ms"}
    with loopback(tmp_path / "cluster", PRELOAD + PAUSING, **settings) as dask:
        time.sleep(5)
        command = [sys.executable, "-m", "landscape_cli", *FLAGS, "--out", str(tmp_path / "out")]
        with subprocess.Popen([*command, "--scheduler", dask.address], stderr=subprocess.PIPE, text=True) as process:
            wait_for((tmp_path / "out" / "runs").exists)
            began = time.monotonic()
            line = process.stderr.readline()  # type: ignore[union-attr]
            assert time.monotonic() - began < 10
            process.terminate()
            process.communicate()
    assert "is paused: it uses most of the" in line


@pytest.mark.slow
def test_a_worker_that_joins_late_without_the_folder_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    lying = (
        PRELOAD
        + """
import ncsam.sweep.cluster as cluster
asked = getattr(cluster.unfit, "whole", cluster.unfit)
if Path("late").exists():  # a folder of that name, on a disk of this machine
    cluster.unfit = lambda expected, token, worker: asked(expected, (token[0] + ".local", token[1]), worker)
    cluster.unfit.whole = asked
"""
    )
    with loopback(tmp_path / "cluster", lying) as dask:
        (dask.here / "plan.json").write_text(json.dumps(dict.fromkeys(NAMES, "very slow")))
        command = [sys.executable, "-m", "landscape_cli", *FLAGS, "--out", str(out), "--scheduler", dask.address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: any(what == "begin" for what, *_ in dask.events()))
            late = tmp_path / "machine"
            late.mkdir()
            (late / "late").touch()
            worker = [sys.executable, "-m", "distributed.cli.dask_worker", dask.address]
            worker += ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
            worker += ["--preload", str(dask.here / "preload.py"), "--local-directory", str(late)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "LOOPBACK": str(dask.here)}
            with (tmp_path / "log").open("wb") as log:
                joined = subprocess.Popen(
                    worker, cwd=late, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            try:
                _, err = process.communicate()
            finally:
                end([joined])
        assert process.returncode == 1, err
        assert "does not see" in err.splitlines()[-1]
        (dask.here / "plan.json").write_text("{}")
        assert landscape([*FLAGS, "--out", str(out), "--scheduler", dask.address, "--resume"]) == 0
    with store.open(out / "study.h5") as file:
        assert sorted(file.record("cells").names.tolist()) == sorted(NAMES)


@pytest.mark.slow
def test_a_worker_that_cannot_say_whether_it_is_fit_ends_the_sweep_with_one_line(tmp_path: Path) -> None:
    broken = """
import ncsam.sweep.cluster as cluster
def endless(*_):
    return endless(*_)
cluster.code_digest = endless
"""
    with loopback(tmp_path / "cluster", broken) as dask:
        folder = tmp_path / "folder"
        folder.mkdir()
        cells = Sweep.from_dict(TWO).cells()
        with Cluster(dask.address) as cluster, pytest.raises(ValueError, match=r"cannot tell whether .*RecursionError"):
            cluster.run_cells(cells, folder)


@pytest.mark.slow
def test_other_versions_are_refused_before_any_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with loopback(tmp_path / "cluster", "import torch\ntorch.__version__ = '1.0'") as dask:
        assert landscape([*FLAGS, "--out", str(tmp_path / "out"), "--scheduler", dask.address]) == 2
    err = capsys.readouterr().err
    assert "has torch 1.0, where the sweep was started it is torch 2" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.slow
def test_a_client_that_is_stopped_cancels_and_goes_on_where_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with loopback(tmp_path / "cluster") as dask:
        (dask.here / "plan.json").write_text(json.dumps(dict.fromkeys(NAMES, "slow")))
        command = [sys.executable, "-m", "landscape_cli", *FLAGS, "--out", str(out), "--scheduler", dask.address]
        for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            done = len(dask.events())
            more = ["--resume"] if done else []
            with subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True) as process:
                wait_for(lambda done=done: len(dask.events()) > done)
                process.send_signal(number)
                _, err = process.communicate()
            assert process.returncode == status
            assert len(err.split("\n")) == 2 + (number == signal.SIGINT)  # click goes to a new line after ^C
            assert "; continue with: " in err
            assert f"--scheduler {dask.address} --resume" in err
            begun = [name for what, name, *_ in dask.events() if what == "begin"]
            ended = [name for what, name, *_ in dask.events() if what == "end"]
            wait_for(lambda: not list((out / "runs").glob("*.lock")))  # what workers were at, ends there
            assert len(set(begun)) < len(NAMES)
            assert len(ended) < len(NAMES)
        (dask.here / "plan.json").write_text("{}")
        assert subprocess.run([*command, "--resume"], check=False, stdout=subprocess.DEVNULL).returncode == 0
        begun = [name for what, name, *_ in dask.events() if what == "begin"]
    assert {path.stem for path in (out / "runs").iterdir()} == NAMES
    assert set(begun) == NAMES


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_line_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with loopback(tmp_path / "cluster") as dask:
        (dask.here / "plan.json").write_text(json.dumps(dict.fromkeys(NAMES, "slow")))
        command = [sys.executable, "-m", "landscape_cli", *FLAGS, "--out", str(out), "--scheduler", dask.address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: any(what == "end" for what, *_ in dask.events()))
            dask.scheduler.kill()
            _, err = process.communicate()
        assert (process.returncode, err.count("\n")) == (1, 1)
        assert "is gone; what is complete is kept" in err
        complete = {path.stem for path in (out / "runs").glob("*.h5")}
        assert complete
        assert complete < NAMES
        assert landscape(["sweep", "--status", str(out), "--json"]) == 0
        assert set(json.loads(capsys.readouterr().out)["complete"]) >= complete
    assert landscape([*FLAGS, "--out", str(out), "--scheduler", dask.address, "--resume"]) == 2
    assert "no Dask scheduler answers at" in capsys.readouterr().err
