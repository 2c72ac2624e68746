"""Folders of image files: one folder a class, and the layouts of Tiny-ImageNet, Animal-10N and Food-101N."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from landscape import LazyInputs
from landscape.inputs import LISTING, Unfit, check_classes, check_size, opened, read_text
from ncsam.data.arrays import pixel_statistics
from ncsam.data.dataset import Data, Normalization
from ncsam.data.npz import first_line

_SUFFIXES = {
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pcx", ".pgm",
    ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
}  # fmt: skip
_LEFT_OUT = {"thumbs.db", "desktop.ini", "__macosx"}  # what systems leave in folders, besides hidden names

_SAMPLED = 1000  # training images from which the statistics of lazy ones are taken
_TOGETHER = 64  # of them, read at once
_PIXELS = 100_000_000  # of one image

Sample = tuple[Path, int]
Listing = tuple[list[Sample], list[Sample], list[str]]
"""Training samples, test samples (file and label), class names."""


def load(directory: str | os.PathLike[str], *, size: int | None = None, lazy: bool = False) -> Data:
    """Images of a folder as uint8 (n, 3, height, width), RGB.

    ============= ================================================================================================
    plain         ``train/CLASS/*`` and ``test/CLASS/*`` (or ``val/CLASS/*``); classes in alphabetical order
    Tiny-ImageNet ``wnids.txt``, ``train/WNID/images/*``, ``val/images/*``, ``val/val_annotations.txt``; the
                  published test images have no labels, so its ``val`` part is the test set
    Animal-10N    ``training/LABEL_*`` and ``testing/LABEL_*``
    Food-101N     ``Food-101N_release/meta/imagelist.tsv`` trains; the clean test set is Food-101's,
                  ``food-101/meta/test.txt``
    ============= ================================================================================================

    Everything is held in memory, 3·size² bytes an image, unless ``lazy``. Left out are hidden files and folders (with
    a leading dot), ``Thumbs.db``, ``desktop.ini`` and ``__MACOSX``, and nothing else.

    Args:
        size: make every image size × size: its shorter side is scaled to ``size`` (bicubic), then the centre is cut
            out. None keeps images as they are, which must then all have one size.
        lazy: read images as they are needed, see :class:`landscape.LazyInputs`. The normalisation is that of 1000
            evenly spaced training images; these, and all names, labels and sizes of files, are what the data are known
            by.

    Raises:
        FileNotFoundError: the folder has none of these layouts, a class has no images, or a listed image is missing.
        ValueError: images of several sizes without ``size``, a file that is not an image, something else among the
            images, pixels of more than 8 bits, or a class unknown.
        ImportError: Pillow (extra ``images``) is not installed.
    """
    root = Path(directory)
    if size is not None and size < 1:
        raise ValueError(f"size is {size}, expected a number of pixels ≥ 1")
    train, test, classes = _listing(root)
    check_classes(str(root), len(classes))
    for part, samples in (("training", train), ("test", test)):
        if not samples:
            raise FileNotFoundError(f"{root}: no {part} images found")
    for folder in {path.parent for path, _ in (*train, *test)}:
        if root.resolve() not in folder.resolve().parents:
            raise ValueError(f"{root}: lists images in {folder}, outside of it")
    labels = [np.array([label for _, label in samples], dtype=np.int64) for samples in (train, test)]
    if lazy:
        return _lazy(root, [*train, *test], labels, classes, size)
    train_x, test_x = (_read_images([path for path, _ in samples], size) for samples in (train, test))
    parts = torch.from_numpy(train_x), torch.from_numpy(test_x)
    return _data(*parts, labels, classes, pixel_statistics(train_x))


def _data(
    train_x: torch.Tensor | LazyInputs,
    test_x: torch.Tensor | LazyInputs,
    labels: Sequence[np.ndarray],
    classes: Sequence[str],
    normalization: Normalization,
) -> Data:
    return Data(
        train_x=train_x,
        train_y=torch.from_numpy(labels[0]),
        test_x=test_x,
        test_y=torch.from_numpy(labels[1]),
        num_classes=len(classes),
        name="folder",
        classes=tuple(classes),
        normalization=normalization,
    )


def _lazy(
    root: Path, samples: Sequence[Sample], labels: Sequence[np.ndarray], classes: Sequence[str], size: int | None
) -> Data:
    """The data set whose images are read when they are needed; ``samples`` are those to train on, then the others."""
    paths, count = [path for path, _ in samples], len(labels[0])
    shape = _read_image(paths[0], size).shape

    def read(rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(_read_into([paths[row] for row in rows.tolist()], size, shape, paths[0]))

    listing = hashlib.sha256(repr((size, shape)).encode())
    for path, label in samples:
        listing.update(f"{path.relative_to(root)}\0{label}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
    inputs = LazyInputs(read, (len(paths), *shape), torch.uint8)
    some = inputs.select(np.linspace(0, count - 1, min(_SAMPLED, count)).round().astype(np.int64))
    for start in range(0, len(some), _TOGETHER):
        listing.update(some[start : start + _TOGETHER].numpy().data)
    inputs.digest = listing.hexdigest()
    parts = inputs.select(slice(count)), inputs.select(slice(count, None))
    return _data(*parts, labels, classes, pixel_statistics(some))


def _listing(root: Path) -> Listing:
    layouts: list[tuple[str, Callable[[Path], Listing]]] = [
        ("wnids.txt", _tiny_imagenet),
        ("training", _animal_10n),
        ("Food-101N_release/meta/imagelist.tsv", _food_101n),
        ("train", _plain),
    ]
    for marker, layout in layouts:
        if (root / marker).exists():
            return layout(root)
    raise FileNotFoundError(f"{root} holds none of {', '.join(marker for marker, _ in layouts)}; see the docs on data")


def _plain(root: Path) -> Listing:
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if test is None:
        raise FileNotFoundError(f"{root} has train/ but neither test/ nor val/")
    classes = _class_folders(root / "train")
    surplus = sorted(set(_class_folders(test)) - set(classes))
    if surplus:
        raise ValueError(f"{test} has classes that train/ lacks: {', '.join(surplus[:5])}")
    parts = [
        [(path, label) for label, name in enumerate(classes) for path in _images_in(part / name)]
        for part in (root / "train", test)
    ]
    return parts[0], parts[1], classes


def _tiny_imagenet(root: Path) -> Listing:
    classes = read_text(root / "wnids.txt", LISTING).split()
    index = {name: label for label, name in enumerate(classes)}
    train = [
        (path, label) for label, name in enumerate(classes) for path in _images_in(root / "train" / name / "images")
    ]
    rows = [line.split("\t") for line in read_text(root / "val" / "val_annotations.txt", LISTING).splitlines()]
    test = [(root / "val" / "images" / row[0], _label(index, row[1], root)) for row in rows]
    return train, test, classes


def _animal_10n(root: Path) -> Listing:
    parts = []
    for part in ("training", "testing"):
        samples = []
        for path in _images_in(root / part):
            label, separator, _ = path.name.partition("_")
            if not separator or not label.isdecimal() or int(label) > 9:
                raise ValueError(f"{path} is not named LABEL_NUMBER with a label in 0…9, as Animal-10N's images are")
            samples.append((path, int(label)))
        parts.append(samples)
    names = ["cat", "lynx", "wolf", "coyote", "cheetah", "jaguar", "chimpanzee", "orangutan", "hamster", "guinea pig"]
    return parts[0], parts[1], names


def _food_101n(root: Path) -> Listing:
    noisy, clean = root / "Food-101N_release", root / "food-101"
    classes = read_text(clean / "meta" / "classes.txt", LISTING).split()
    index = {name: label for label, name in enumerate(classes)}

    def samples(images: Path, rows: Sequence[str], suffix: str) -> list[Sample]:
        return [(images / f"{row}{suffix}", _label(index, row.partition("/")[0], images)) for row in rows]

    header, *rows = read_text(noisy / "meta" / "imagelist.tsv", LISTING).split()
    if "/" in header and header.partition("/")[0] in index:
        rows.insert(0, header)
    test = read_text(clean / "meta" / "test.txt", LISTING).split()
    return samples(noisy / "images", rows, ""), samples(clean / "images", test, ".jpg"), classes


def _label(index: dict[str, int], name: str, where: Path) -> int:
    if name not in index:
        raise ValueError(f"{where}: an image is of the class {name!r}, which the list of classes lacks")
    return index[name]


def _entries(folder: Path) -> list[Path]:
    """List what lies in a folder, sorted, without hidden names and what systems leave there."""
    return sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower() not in _LEFT_OUT
    )


def _class_folders(part: Path) -> list[str]:
    folders = []
    for path in _entries(part):
        if path.is_dir():
            folders.append(path.name)
        elif path.suffix.lower() in _SUFFIXES:
            raise ValueError(f"{path}: lies outside the folders of the classes; move it into one, or away")
    return folders


def _images_in(folder: Path) -> list[Path]:
    """The images in a folder, which holds nothing else; none where there is no such folder."""
    if not folder.is_dir():
        return []
    paths = _entries(folder)
    for path in paths:
        if path.suffix.lower() not in _SUFFIXES:
            if path.is_dir():
                raise ValueError(f"{path}: is a folder, expected images only; move what it holds up, or it away")
            raise ValueError(
                f"{path}: its ending is none of {', '.join(sorted(_SUFFIXES))}; convert it to an image, or move it away"
            )
    if not paths:
        raise FileNotFoundError(f"{folder}: no images in this folder; add some, or remove it")
    return paths


def _read_images(paths: Sequence[Path], size: int | None) -> np.ndarray:
    first = _read_image(paths[0], size)
    try:
        check_size(paths[0].parent, len(paths) * first.size)
    except Unfit as error:
        raise Unfit(f"{error}, or end the data with ,lazy to read images as they are needed") from None
    return _read_into(paths, size, first.shape, paths[0])


def _read_into(paths: Sequence[Path], size: int | None, shape: tuple[int, ...], first: Path) -> np.ndarray:
    """Images of the shape that the ``first`` of all has, (n, 3, height, width)."""
    images = np.empty((len(paths), *shape), dtype=np.uint8)

    def read(i: int) -> None:
        image = _read_image(paths[i], size)
        if image.shape != shape:
            raise ValueError(
                f"{paths[i]} is {image.shape[2]}×{image.shape[1]} pixels, {first} {shape[2]}×{shape[1]};"
                " pass size= (folder:DIR,size=64) to make them one size"
            )
        images[i] = image

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding runs outside the interpreter lock
            for _ in pool.map(read, range(len(paths))):
                pass
    except RuntimeError as error:
        if "new thread" not in str(error):  # for whose stack there is no memory left
            raise
        for i in range(len(paths)):
            read(i)
    return images


def _read_image(path: Path, size: int | None) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading image folders needs Pillow: pip install ncsam-landscape[images]") from error
    try:
        with opened(path) as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
            with Image.open(stream) as file:
                if file.width * file.height > _PIXELS:
                    raise ValueError(f"it has {file.width}×{file.height} pixels, at most {_PIXELS} are read")
                if file.mode.startswith("I") or file.mode == "F":  # of which Pillow would cut off what exceeds 255
                    raise ValueError(f"its pixels have more than 8 bits (mode {file.mode}); convert it to 8 bits")
                image = file.convert("RGB")
    except FileNotFoundError:
        raise
    except Unfit:
        raise
    except Exception as error:  # decoders of damaged images raise what they please
        raise ValueError(f"{path} cannot be read as an image: {first_line(error)}") from error
    if size is not None:
        scale = size / min(image.size)
        if scale * image.width * scale * image.height > _PIXELS:
            raise ValueError(f"{path}: scaled to size={size} it has more than {_PIXELS} pixels; take a smaller size")
        scaled = image.resize((max(size, round(image.width * scale)), max(size, round(image.height * scale))))
        left, top = (scaled.width - size) // 2, (scaled.height - size) // 2
        image = scaled.crop((left, top, left + size, top + size))
    return np.asarray(image).transpose(2, 0, 1)
