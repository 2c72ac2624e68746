"""Every published layout is read, and damage is told in one line."""

from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ncsam import data
from ncsam.data import cifar, idx

RNG = np.random.default_rng(0)
UNPACK = Path(__file__).parents[4] / "shared" / "data" / "unpack_cifar10.py"


def pixels(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), dtype=np.uint8)


# ---- CIFAR ----------------------------------------------------------------------------------------------------------

CIFAR_X = pixels(12, 3072)
CIFAR_Y = RNG.integers(0, 10, 12)
FINE, COARSE = np.arange(12) * 8, np.arange(12) % 20


def cifar10_python(folder: Path, protocol: int = 2, as_text: bool = False) -> Path:
    folder.mkdir(parents=True)
    for k, part in enumerate([*np.split(np.arange(10), 5), np.array([10, 11])], start=1):
        stem = f"data_batch_{k}" if k < 6 else "test_batch"
        batch = {b"data": CIFAR_X[part], b"labels": CIFAR_Y[part].tolist(), b"filenames": [b"a.png", b"b.png"]}
        content = {key.decode(): value for key, value in batch.items()} if as_text else batch
        (folder / stem).write_bytes(pickle.dumps(content, protocol=protocol))
    return folder


def cifar10_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = np.concatenate([CIFAR_Y[:, None].astype(np.uint8), CIFAR_X], axis=1)
    for k in range(5):
        rows[2 * k : 2 * k + 2].tofile(folder / f"data_batch_{k + 1}.bin")
    rows[10:].tofile(folder / "test_batch.bin")
    return folder


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("as_text", [True, False])
def test_cifar10_in_the_python_layout(tmp_path: Path, protocol: int, as_text: bool) -> None:
    cifar10_python(tmp_path / "cifar-10-batches-py", protocol, as_text)
    loaded = data.load(f"cifar10:{tmp_path}")
    assert loaded.train_x.dtype == torch.uint8
    assert np.array_equal(loaded.train_x.numpy().reshape(10, -1), CIFAR_X[:10])
    assert np.array_equal(loaded.test_y.numpy(), CIFAR_Y[10:])
    assert loaded.classes[3] == "cat"


def test_both_layouts_of_cifar10_are_one_data_set(tmp_path: Path) -> None:
    python = data.load(f"cifar10:{cifar10_python(tmp_path / 'cifar-10-batches-py')}")
    binary = data.load(f"cifar10:{cifar10_binary(tmp_path / 'bin')}")
    assert python.hash == binary.hash


def test_both_layouts_of_cifar100_are_one_data_set(tmp_path: Path) -> None:
    python, binary = tmp_path / "cifar-100-python", tmp_path / "cifar-100-binary"
    for folder in (python, binary):
        folder.mkdir()
    for stem, part in (("train", slice(0, 8)), ("test", slice(8, 12))):
        content = {"data": CIFAR_X[part], "fine_labels": FINE[part].tolist(), "coarse_labels": COARSE[part].tolist()}
        (python / stem).write_bytes(pickle.dumps(content, protocol=2))
        rows = np.concatenate([np.stack([COARSE, FINE], axis=1)[part].astype(np.uint8), CIFAR_X[part]], axis=1)
        rows.tofile(binary / f"{stem}.bin")
    first, second = data.load(f"cifar100:{python}"), data.load(f"cifar100:{binary}")
    assert first.num_classes == 100
    assert first.train_y.tolist() == FINE[:8].tolist()
    assert first.hash == second.hash


def test_the_fine_classes_of_cifar100_lie_in_the_published_superclasses() -> None:
    published = """4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5
    19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6
    19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"""
    coarse = {name: k for k, members in enumerate(cifar.CIFAR100_SUPERCLASSES.values()) for name in members}
    assert [coarse[name] for name in cifar.CIFAR100_CLASSES] == [int(k) for k in published.split()]


def remove_a_batch(folder: Path) -> None:
    (folder / "data_batch_3").unlink()


def rewrite(content: object) -> Callable[[Path], None]:
    return lambda folder: (folder / "data_batch_2").write_bytes(pickle.dumps(content)) and None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_a_batch, "data_batch_3"),
        (rewrite([1]), "data_batch_2: a batch is a list, expected a dict"),
        (rewrite({"data": CIFAR_X}), "data_batch_2 has the keys .*expected data and labels"),
        (rewrite({"data": CIFAR_X[:, :9], "labels": [1] * 12}), r"shape \(12, 9\), expected uint8 of shape \(12, 3072"),
        (rewrite({"data": CIFAR_X[:3], "labels": [1, 2]}), r"expected uint8 of shape \(2, 3072\)"),
        (rewrite({"data": CIFAR_X[:2], "labels": [1, 12]}), "labels lie in 0…12, expected 0…9"),
        (rewrite({"data": CIFAR_X[:2], "labels": [1, 0.5]}), "labels are float64"),
    ],
)
def test_a_damaged_python_layout(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = cifar10_python(tmp_path / "py")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        data.load(f"cifar10:{folder}")
    assert "\n" not in str(caught.value)


def test_a_damaged_binary_layout(tmp_path: Path) -> None:
    folder = cifar10_binary(tmp_path / "bin")
    (folder / "data_batch_1.bin").write_bytes(b"\0" * 3000)
    with pytest.raises(ValueError, match="has 3000 bytes, expected a multiple of 3073"):
        data.load(f"cifar10:{folder}")


def test_a_folder_without_cifar_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py/data_batch_1 nor .*\.bin; unpack"):
        data.load(f"cifar10:{tmp_path}")


@pytest.mark.skipif(not UNPACK.is_file(), reason="the archive of real CIFAR-10 images is not beside the repository")
def test_real_cifar10_images_in_both_layouts(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="unpacking the images needs Pillow")
    command = [sys.executable, str(UNPACK), str(tmp_path), "--train", "500", "--test", "100"]
    subprocess.run(command, check=True, capture_output=True)
    python = data.load(f"cifar10:{tmp_path / 'cifar-10-batches-py'}")
    binary = data.load(f"cifar10:{tmp_path / 'cifar-10-batches-bin'}")
    assert python.hash == binary.hash
    assert tuple(python.train_x.shape) == (500, 3, 32, 32)
    assert set(python.train_y.tolist()) == set(range(10))
    assert python.normalization is not None
    published = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]  # of all 50,000 images
    np.testing.assert_allclose(python.normalization.mean, published[0], atol=0.04)
    np.testing.assert_allclose(python.normalization.std, published[1], atol=0.04)
    ready = python.prepare(python.train_x)
    torch.testing.assert_close(ready.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(ready.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


# ---- IDX ------------------------------------------------------------------------------------------------------------


def idx_bytes(array: np.ndarray) -> bytes:
    code = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}[array.dtype.str[1:]]
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist(folder: Path, compressed: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "train-images-idx3-ubyte": pixels(10, 28, 28),
        "train-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
        "t10k-images-idx3-ubyte": pixels(4, 28, 28),
        "t10k-labels-idx1-ubyte": np.array([9, 0, 3, 3], dtype=np.uint8),
    }
    for stem, array in arrays.items():
        if compressed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / stem).write_bytes(idx_bytes(array))
    return arrays


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_plain_and_compressed(tmp_path: Path, name: str, folder: str, compressed: bool) -> None:
    arrays = mnist(tmp_path / folder, compressed)
    loaded = data.load(f"{name}:{tmp_path}")
    assert loaded.name == name
    assert np.array_equal(loaded.train_x.numpy()[:, 0], arrays["train-images-idx3-ubyte"])
    assert loaded.test_y.tolist() == [9, 0, 3, 3]
    assert loaded.classes[1] == ("1" if name == "mnist" else "Trouser")


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", "<i4", "<f4", "<f8"])
def test_every_number_an_idx_file_can_hold(tmp_path: Path, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    loaded = idx.read(tmp_path / "a")
    assert loaded.dtype == array.dtype
    assert np.array_equal(loaded, array)


WHOLE = idx_bytes(np.zeros((2, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", WHOLE[:-1], r"has 17 bytes, expected 18 for shape \(2, 3\)"),
        ("a", WHOLE + b"\0", "has 19 bytes, expected 18"),
        ("a", WHOLE[:7], "has 7 bytes, expected"),
        ("a", b"\0\0\x07\x01", "magic number"),
        ("a", b"", "magic number"),
        ("a.gz", WHOLE, "not a complete gzip file"),
        ("a.gz", gzip.compress(WHOLE, mtime=0)[:-9], "not a complete gzip file"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        idx.read(tmp_path / name)


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    mnist(tmp_path, compressed=True)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no t10k-labels-idx1-ubyte or"):
        data.load(f"mnist:{tmp_path}")


# ---- npz ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("train_x", "train_y", "test_x", "test_y"), ("x_train", "y_train", "x_test", "y_test")]
)
def test_npz_of_ready_inputs(tmp_path: Path, names: tuple[str, ...]) -> None:
    x = RNG.standard_normal((6, 5))
    np.savez(tmp_path / "a.npz", **dict(zip(names, (x, [0, 1, 2, 0, 1, 2], x[:2], [2, 0]), strict=True)))
    loaded = data.load(f"npz:{tmp_path / 'a.npz'}")
    assert loaded.train_x.dtype == torch.float32
    assert np.array_equal(loaded.train_x.numpy(), x.astype(np.float32))
    assert (loaded.num_classes, loaded.normalization) == (3, None)
    assert loaded.prepare(loaded.test_x) is loaded.test_x


def test_npz_of_images_with_channels_last_and_class_names(tmp_path: Path) -> None:
    x, y = pixels(4, 9, 7, 3), np.array([[0], [1], [1], [0]])
    np.savez_compressed(
        tmp_path / "a.npz", train_images=x, train_labels=y, test_images=x, test_labels=y, classes=["a", "b", "c"]
    )
    loaded = data.load(f"npz:{tmp_path / 'a.npz'}")
    assert loaded.input_shape == (3, 9, 7)
    assert np.array_equal(loaded.train_x.numpy(), np.moveaxis(x, -1, 1))
    assert loaded.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ((8, 8), (1, 8, 8)),
        ((8, 8, 1), (1, 8, 8)),
        ((8, 6, 3), (3, 8, 6)),
        ((2, 2, 3), (3, 2, 2)),
        ((1, 8, 8), (1, 8, 8)),
        ((3, 8, 6), (3, 8, 6)),
        ((3, 2, 2), (3, 2, 2)),
        ((2, 8, 8), (2, 8, 8)),
        ((4, 8, 6), (4, 8, 6)),
        ((13, 64, 64), (13, 64, 64)),
        ((8, 8, 4), None),
        ((8, 8, 2), None),
        ((64, 64, 13), None),
        ((8, 8, 8), None),
        ((3, 8, 3), None),
        ((1, 28, 1), None),
        ((3, 8, 1), None),
    ],
)
def test_pixels_have_a_clear_axis_of_channels(shape: tuple[int, ...], taken: tuple[int, ...] | None) -> None:
    x, y = pixels(2, *shape), [0, 1]
    if taken is None:
        with pytest.raises(ValueError, match="not clear which axis is that of the channels; give 1 or 3") as caught:
            data.from_arrays("images", x, y, x, y)
        assert "\n" not in str(caught.value)
        ready = data.from_arrays("images", x / 255, y, x / 255, y)
        assert ready.input_shape == shape
        return
    loaded = data.from_arrays("images", x, y, x, y)
    assert loaded.input_shape == taken
    moved = np.moveaxis(x, -1, 1) if len(shape) == 3 and taken != shape else x.reshape(2, *taken)
    assert np.array_equal(loaded.train_x.numpy(), moved)


X, Y = np.zeros((2, 3)), [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train_x": X, "train_y": Y}, r"it holds \['train_x', 'train_y'\], expected train_x, train_y, test_x"),
        ({"train_x": X, "train_y": Y, "test_x": X, "test_y": [0, -1]}, "labels lie in -1…0"),
        ({"train_x": X, "train_y": [0.0, 1.0], "test_x": X, "test_y": Y}, "train labels are float64"),
        ({"train_x": X, "train_y": Y, "test_x": X[:, :2], "test_y": Y}, "they must agree"),
        ({"train_x": X, "train_y": [0], "test_x": X, "test_y": Y}, "there are 1 labels"),
        ({"train_x": X.astype(int), "train_y": Y, "test_x": X, "test_y": Y}, "train inputs are int64, expected floa"),
        ({"train_x": X * np.nan, "train_y": Y, "test_x": X, "test_y": Y}, "6 non-finite values"),
        ({"train_x": X, "train_y": Y, "test_x": X, "test_y": Y, "classes": ["a"]}, "labels lie in 0…1|1 class names"),
    ],
)
def test_npz_files_that_make_no_data_set(tmp_path: Path, content: dict[str, object], message: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=message) as caught:
        data.load(f"npz:{tmp_path / 'a.npz'}")
    assert "\n" not in str(caught.value)


def test_other_files_are_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "c.npz").write_bytes(pickle.dumps(X))
    for name in ("a.npy", "b.npz", "c.npz"):
        with pytest.raises(ValueError, match=f"{name} is not an .npz file"):
            data.load(f"npz:{tmp_path / name}")
    with pytest.raises(FileNotFoundError, match=r"d\.npz"):
        data.load(f"npz:{tmp_path / 'd.npz'}")


def test_an_npz_file_with_a_flipped_byte_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_x=X, train_y=Y, test_x=X, test_y=Y)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[150] ^= 0xFF  # inside the first array
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz: Bad CRC-32"):
        data.load(f"npz:{tmp_path / 'a.npz'}")


# ---- image folders --------------------------------------------------------------------------------------------------


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    """An image of one colour; JPEG keeps it to within a few levels."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def colours(x: torch.Tensor) -> list[tuple[int, ...]]:
    """Which channels of each image are bright."""
    return [tuple(int(c > 127) * 255 for c in image.float().mean((1, 2))) for image in x]


@pytest.fixture
def needs_pillow() -> None:
    pytest.importorskip("PIL", reason="reading images needs Pillow (extra `images`)")


@pytest.mark.usefixtures("needs_pillow")
class TestFolders:
    def test_plain(self, tmp_path: Path) -> None:
        for part in ("train", "val"):
            picture(tmp_path / part / "b-green" / "1.png", GREEN)
            picture(tmp_path / part / "a-red" / "2.jpg", RED)
            picture(tmp_path / part / "a-red" / "1.PNG", RED)
        loaded = data.load(f"folder:{tmp_path}")
        assert loaded.classes == ("a-red", "b-green")
        assert loaded.train_y.tolist() == loaded.test_y.tolist() == [0, 0, 1]
        assert colours(loaded.train_x) == [RED, RED, GREEN]

    def test_tiny_imagenet(self, tmp_path: Path) -> None:
        (tmp_path / "wnids.txt").write_text("n02\nn01\n")
        picture(tmp_path / "train" / "n01" / "images" / "n01_0.JPEG", RED)
        picture(tmp_path / "train" / "n02" / "images" / "n02_0.JPEG", BLUE, mode="L")
        picture(tmp_path / "val" / "images" / "val_0.JPEG", GREEN)
        picture(tmp_path / "test" / "images" / "test_0.JPEG", GREEN)
        (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn01\t0\t0\t7\t7\n")
        loaded = data.load(f"folder:{tmp_path}")
        assert loaded.classes == ("n02", "n01")
        assert loaded.train_y.tolist() == [0, 1]
        assert loaded.test_y.tolist() == [1]
        assert colours(loaded.train_x)[1] == RED
        grey = loaded.train_x[0].float()
        assert float((grey - grey.mean()).abs().max()) < 8

    def test_animal_10n(self, tmp_path: Path) -> None:
        picture(tmp_path / "training" / "8_000.jpg", RED)
        picture(tmp_path / "training" / "0_001.jpg", GREEN)
        picture(tmp_path / "testing" / "9_000.jpg", BLUE)
        loaded = data.load(f"folder:{tmp_path}")
        assert loaded.num_classes == 10
        assert loaded.train_y.tolist() == [0, 8]
        assert colours(loaded.train_x) == [GREEN, RED]
        assert loaded.test_y.tolist() == [9]
        picture(tmp_path / "testing" / "cat.jpg", BLUE)
        with pytest.raises(ValueError, match=r"cat\.jpg is not named LABEL_NUMBER"):
            data.load(f"folder:{tmp_path}")

    def test_food_101n(self, tmp_path: Path) -> None:
        noisy, clean = tmp_path / "Food-101N_release", tmp_path / "food-101"
        picture(noisy / "images" / "waffles" / "k1.jpg", RED)
        picture(noisy / "images" / "apple_pie" / "k2.jpg", GREEN)
        picture(clean / "images" / "waffles" / "77.jpg", BLUE)
        for folder in (noisy, clean):
            (folder / "meta").mkdir()
        (noisy / "meta" / "imagelist.tsv").write_text("class_name/key\nwaffles/k1.jpg\napple_pie/k2.jpg\n")
        (clean / "meta" / "classes.txt").write_text("apple_pie\nwaffles\n")
        (clean / "meta" / "test.txt").write_text("waffles/77\n")
        loaded = data.load(f"folder:{tmp_path}")
        assert loaded.classes == ("apple_pie", "waffles")
        assert loaded.train_y.tolist() == [1, 0]
        assert colours(loaded.train_x) == [RED, GREEN]
        assert (loaded.test_y.tolist(), colours(loaded.test_x)) == ([1], [BLUE])

    def test_images_of_several_sizes_need_a_size(self, tmp_path: Path) -> None:
        picture(tmp_path / "train" / "a" / "1.png", RED, (8, 8))
        picture(tmp_path / "train" / "b" / "1.png", GREEN, (20, 12))
        picture(tmp_path / "test" / "a" / "1.png", RED, (5, 40))
        with pytest.raises(ValueError, match=r"is 20×12 pixels, .* 8×8; pass size="):
            data.load(f"folder:{tmp_path}")
        loaded = data.load(f"folder:{tmp_path},size=6")
        assert tuple(loaded.train_x.shape) == (2, 3, 6, 6)
        assert colours(loaded.train_x) == [RED, GREEN]

    def test_the_centre_is_kept(self, tmp_path: Path) -> None:
        from PIL import Image

        wide = np.zeros((4, 12, 3), dtype=np.uint8)
        wide[:, 4:8] = 255
        for part in ("train", "test"):
            (tmp_path / part / "a").mkdir(parents=True)
            Image.fromarray(wide).save(tmp_path / part / "a" / "1.png")
        assert data.load(f"folder:{tmp_path},size=4").train_x.min() == 255

    def test_a_file_that_is_no_image_is_named(self, tmp_path: Path) -> None:
        picture(tmp_path / "train" / "a" / "1.png", RED)
        picture(tmp_path / "test" / "a" / "1.png", RED)
        (tmp_path / "train" / "a" / "2.png").write_bytes(b"no image")
        with pytest.raises(ValueError, match=r"2\.png cannot be read as an image"):
            data.load(f"folder:{tmp_path}")

    def test_folders_of_no_known_layout(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"holds none of wnids\.txt, training, Food-101N_release"):
            data.load(f"folder:{tmp_path}")
        (tmp_path / "train" / "a").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match="neither test/ nor val/"):
            data.load(f"folder:{tmp_path}")
        (tmp_path / "test" / "z").mkdir(parents=True)
        with pytest.raises(ValueError, match="classes that train/ lacks: z"):
            data.load(f"folder:{tmp_path}")
        (tmp_path / "test" / "z").rename(tmp_path / "test" / "a")
        with pytest.raises(FileNotFoundError, match=r"train/a: no images in this folder; add some, or remove it"):
            data.load(f"folder:{tmp_path}")
        for part in ("train", "test"):
            (tmp_path / part / "a").rmdir()
        with pytest.raises(FileNotFoundError, match="no training images found"):
            data.load(f"folder:{tmp_path}")

    @pytest.mark.parametrize("ending", ["tif", "TIFF", "pgm", "pnm", "jfif", "jpe", "dib", "tga", "pcx", "jp2"])
    def test_ordinary_endings_are_read(self, ending: str, tmp_path: Path) -> None:
        from PIL import Image

        for part in ("train", "test"):
            (tmp_path / part / "a").mkdir(parents=True)
            for i in range(2):
                Image.new("L", (8, 8), 60 + i).save(tmp_path / part / "a" / f"{i}.{ending}")
        loaded = data.load(f"folder:{tmp_path}")
        assert [image.unique().tolist() for image in loaded.train_x] == [[60], [61]]

    @pytest.mark.parametrize("lazy", ["", ",lazy"])
    def test_hidden_names_and_what_systems_leave_are_left_out(self, lazy: str, tmp_path: Path) -> None:
        for part in ("train", "test"):
            picture(tmp_path / part / "a" / "1.png", RED)
            picture(tmp_path / part / "b" / "1.png", GREEN)
        clean = data.load(f"folder:{tmp_path}{lazy}").hash
        for folder in (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints", "a/__MACOSX"):
            picture(tmp_path / "train" / folder / "1.png", BLUE)
            (tmp_path / "test" / folder).mkdir()
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._1.png"):
            (tmp_path / "train" / "a" / name).write_bytes(b"rubbish")
        loaded = data.load(f"folder:{tmp_path}{lazy}")
        assert loaded.classes == ("a", "b")
        assert loaded.hash == clean

    @pytest.mark.parametrize("lazy", ["", ",lazy"])
    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                ["train/a/notes.txt", "train/a/x.doc"],
                r"train/a/notes\.txt: its ending is none of \.apng, .*; convert it",
            ),
            (["train/a/README"], "train/a/README: its ending is none of"),
            (["test/b/2.mp4"], r"test/b/2\.mp4: its ending is none of"),
            (["train/a/deeper/1.png"], "train/a/deeper: is a folder, expected images only; move what it holds up"),
            (["train/c/.keep"], "train/c: no images in this folder; add some, or remove it"),
            (["train/c/Thumbs.db"], "train/c: no images in this folder"),
            (["train/1.png"], r"train/1\.png: lies outside the folders of the classes; move it into one"),
        ],
    )
    def test_what_would_be_skipped_is_refused(self, names: list[str], message: str, lazy: str, tmp_path: Path) -> None:
        for part in ("train", "test"):
            picture(tmp_path / part / "a" / "1.png", RED)
            picture(tmp_path / part / "b" / "1.png", GREEN)
        (tmp_path / "train" / "about.csv").write_text("beside the classes")
        assert len(data.load(f"folder:{tmp_path}{lazy}").train_y) == 2
        for name in names:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
            data.load(f"folder:{tmp_path}{lazy}")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("lazy", ["", ",lazy"])
    @pytest.mark.parametrize(
        ("name", "dtype"),
        [("2.png", "<u2"), ("2.tif", "<u2"), ("2.tif", ">u2"), ("2.pgm", "<u2"), ("2.tif", "<i4"), ("2.tif", "<f4")],
    )
    def test_images_of_more_than_8_bits_are_refused(self, name: str, dtype: str, lazy: str, tmp_path: Path) -> None:
        from PIL import Image

        for part in ("train", "test"):
            picture(tmp_path / part / "a" / "1.png", RED)
        Image.fromarray(np.linspace(0, 60_000, 64).reshape(8, 8).astype(dtype)).save(tmp_path / "train" / "a" / name)
        with pytest.raises(ValueError, match=rf"a/{name} .* more than 8 bits \(mode [IF].*; convert it to 8") as caught:
            data.load(f"folder:{tmp_path}{lazy}")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
    def test_the_other_modes_become_rgb(self, mode: str, tmp_path: Path) -> None:
        for part in ("train", "test"):
            for i, colour in enumerate([(0, 0, 0), (255, 255, 255)]):
                picture(tmp_path / part / "a" / f"{i}.tif", colour, mode=mode)
        loaded = data.load(f"folder:{tmp_path}")
        assert [image.unique().tolist() for image in loaded.train_x] == [[0], [255]]

    def test_images_as_narrow_as_they_have_channels(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            picture(tmp_path / part / "a" / "1.png", RED)
        for size in (1, 3):
            loaded = data.load(f"folder:{tmp_path},size={size}")
            assert tuple(loaded.train_x.shape) == (1, 3, size, size)
            assert colours(loaded.train_x) == [RED]

    def test_an_image_of_an_unknown_class(self, tmp_path: Path) -> None:
        (tmp_path / "wnids.txt").write_text("n01\n")
        picture(tmp_path / "train" / "n01" / "images" / "a.png", RED)
        (tmp_path / "val").mkdir()
        (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\t0\t0\t7\t7\n")
        with pytest.raises(ValueError, match="of the class 'n09', which the list of classes lacks"):
            data.load(f"folder:{tmp_path}")


def test_without_pillow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        (tmp_path / part / "a" / "1.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install ncsam-landscape\[images\]"):
        data.load(f"folder:{tmp_path}")
