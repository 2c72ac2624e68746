"""Rows written at their places are what HDF5 itself would have written there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from landscape import store
from landscape.store import slots

FIELDS: dict[str, Any] = {
    "loss": (3,),
    "one": (),
    "odd": ((3, 5), "u1"),
    "flag": ((7,), "?"),
    "half": ((3,), "f2"),
    "count": ((), "i8"),
    "long": ((2 * slots.BLOCK + 5,), "u2"),
}
ROWS = 70  # more than a node of HDF5's index holds, so that chunks do not all lie side by side


def stored_by_hdf5(rows: np.ndarray) -> np.ndarray:
    """The checksum that HDF5 writes behind each row."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", data=rows, chunks=(1, rows.shape[1]), fletcher32=True)
        raw = [dataset.id.read_direct_chunk((row, 0))[1] for row in range(len(rows))]
    return np.array([int.from_bytes(chunk[-4:], "little") for chunk in raw])


@settings(max_examples=30, deadline=None)
@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=200),
        elements=st.sampled_from([0, 1, 2, 127, 254, 255]),
    )
)
def test_the_checksum_is_the_one_of_hdf5(rows: np.ndarray) -> None:
    np.testing.assert_array_equal(slots.fletcher32(rows), stored_by_hdf5(rows))


@pytest.mark.parametrize("length", [1, 2, 719, 720, 721, 2 * slots.BLOCK, 4 * slots.BLOCK + 3])
def test_the_checksum_of_long_and_extreme_rows(length: int) -> None:
    random = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    rows = np.stack([random, np.zeros_like(random), np.full_like(random, 255)])
    np.testing.assert_array_equal(slots.fletcher32(rows), stored_by_hdf5(rows))


def row(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        name: rng.normal(size=spec) if spec in ((3,), ()) else rng.integers(0, 2, spec[0]).astype(spec[1])
        for name, spec in FIELDS.items()
    }


def test_hdf5_reads_the_rows_of_every_type(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    with store.PartFile.create(tmp_path / "x.part", {}, ROWS, FIELDS) as part:
        for rows in np.split(order, [1, 5, 30]):
            for number in rows.tolist():
                part.write(number, **row(number))
            part.commit()
    with h5py.File(tmp_path / "x.part", locking=False) as file:
        for number in range(ROWS):
            for name, value in row(number).items():
                np.testing.assert_array_equal(file[name][number], value, err_msg=f"{name} of row {number}")


def test_a_reader_in_the_same_process_does_not_mislead(tmp_path: Path) -> None:
    """HDF5 shares the caches of files opened twice by their path; a row cached there may be an old one."""
    path = tmp_path / "x.part"
    with store.PartFile.create(path, {}, 2, {"loss": (3,)}) as part, h5py.File(path, locking=False) as reader:
        held = reader["loss"]
        assert np.isnan(held[0]).all()
        part.write(0, loss=[1.0, 2.0, 3.0])
        assert part.read()["loss"][0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (1, 3)},
        {"chunks": (2, 3), "fletcher32": True},
        {"chunks": (1, 3), "fletcher32": True, "compression": "gzip"},
        {"chunks": (1, 3), "fletcher32": True, "maxshape": (None, 3)},
        {},
    ],
    ids=str,
)
def test_another_layout_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    """Rows are never written to places that are not theirs; chunks of a data set that can grow may not be there yet."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("loss", (4, 3), "f8", **options)
        with pytest.raises(store.StoreError, match="/loss is not laid out as in a part file"):
            slots.Slots.of(dataset, 1 << 20)
