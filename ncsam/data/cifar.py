"""CIFAR-10 and CIFAR-100 in the published python (pickle) and binary layouts (Krizhevsky 2009)."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape.inputs import read_bytes
from ncsam.data import pickles
from ncsam.data.arrays import from_arrays
from ncsam.data.dataset import Data

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100_SUPERCLASSES: Mapping[str, tuple[str, ...]] = {
    "aquatic mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit and vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household electrical devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large man-made outdoor things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large natural outdoor scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large omnivores and herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium-sized mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles 1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles 2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}
"""Superclass → its fine classes, each in the order of their indices."""

CIFAR100_CLASSES = tuple(sorted(name for members in CIFAR100_SUPERCLASSES.values() for name in members))

_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Layout of one of the two sets: places of its parts, names of its labels."""

    name: str
    classes: tuple[str, ...]
    python_folder: str
    binary_folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_key: str
    label_bytes: int  # before each picture of the binary layout; the last one is the label

    def read(self, directory: str | os.PathLike[str]) -> Data:
        root = Path(directory)
        for folder in (root, root / self.python_folder):
            if (folder / self.train[0]).is_file():
                parts = [self._read_pickles(folder, stems) for stems in (self.train, self.test)]
                break
        else:
            for folder in (root, root / self.binary_folder):
                if (folder / f"{self.train[0]}.bin").is_file():
                    parts = [self._read_binary(folder, stems) for stems in (self.train, self.test)]
                    break
            else:
                raise FileNotFoundError(
                    f"{root} holds neither {self.python_folder}/{self.train[0]} nor "
                    f"{self.binary_folder}/{self.train[0]}.bin; unpack the published archive of {self.name} there"
                )
        (train_x, train_y), (test_x, test_y) = parts
        return from_arrays(self.name, train_x, train_y, test_x, test_y, self.classes)

    def _read_pickles(self, folder: Path, stems: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        images, labels = [], []
        for stem in stems:
            batch = _text_keys(folder / stem, pickles.load(folder / stem))
            if self.label_key not in batch or "data" not in batch:
                raise ValueError(f"{folder / stem} has the keys {sorted(batch)}, expected data and {self.label_key}")
            pixels, targets = batch["data"], pickles.as_integers(folder / stem, self.label_key, batch[self.label_key])
            if not isinstance(pixels, np.ndarray):
                raise ValueError(f"{folder / stem}: data is a {type(pixels).__name__}, expected an array")
            if pixels.dtype != np.uint8 or pixels.shape != (len(targets), _PIXELS):
                raise ValueError(
                    f"{folder / stem}: data is {pixels.dtype} of shape {pixels.shape}, "
                    f"expected uint8 of shape ({len(targets)}, {_PIXELS})"
                )
            images.append(pixels)
            labels.append(targets)
        return np.concatenate(images).reshape(-1, 3, 32, 32), np.concatenate(labels)

    def _read_binary(self, folder: Path, stems: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        width = self.label_bytes + _PIXELS
        rows = []
        for stem in stems:
            path = folder / f"{stem}.bin"
            content = np.frombuffer(read_bytes(path), dtype=np.uint8)
            if len(content) == 0 or len(content) % width:
                raise ValueError(f"{path} has {len(content)} bytes, expected a multiple of {width}; is it complete?")
            rows.append(content.reshape(-1, width))
        table = np.concatenate(rows)
        return table[:, self.label_bytes :].reshape(-1, 3, 32, 32), table[:, self.label_bytes - 1].astype(np.int64)


def load10(directory: str | os.PathLike[str]) -> Data:
    """CIFAR-10 from ``directory`` or its published subfolder; uint8 (n, 3, 32, 32), 10 classes.

    Raises:
        FileNotFoundError: neither layout is there, or a batch is missing.
        ValueError: a file is damaged, or asks for more than arrays.
    """
    batches = tuple(f"data_batch_{i}" for i in range(1, 6))
    return _Layout(
        "cifar10", CIFAR10_CLASSES, "cifar-10-batches-py", "cifar-10-batches-bin", batches, ("test_batch",), "labels", 1
    ).read(directory)


def load100(directory: str | os.PathLike[str]) -> Data:
    """CIFAR-100 with its fine labels, as :func:`load10`; 100 classes."""
    return _Layout(
        "cifar100", CIFAR100_CLASSES, "cifar-100-python", "cifar-100-binary", ("train",), ("test",), "fine_labels", 2
    ).read(directory)


def _text_keys(path: Path, batch: Any) -> dict[str, Any]:
    """Keys are bytes in files written by Python 3 from bytes, text otherwise."""
    if not isinstance(batch, dict):
        raise ValueError(f"{path}: a batch is a {type(batch).__name__}, expected a dict")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}
