"""The data sets of the course, as tensors that already lie on the device.

`digits` needs no download, `cifar10` checks what it downloads, the others come from a seed. The
small sets lie on the CPU unless asked otherwise: networks that fit them run no faster on a GPU.
`cifar10` goes to a GPU where there is one.
"""

import hashlib
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_MD5 = {  # of the files inside the archive, five for training and one for testing
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
CIFAR10_CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue plane, row by row
RETRIES = 1  # further attempts of one call after a failed download


class DataError(RuntimeError):
    """The data are missing, broken or not what they claim to be. The message names the cure."""


class Data(NamedTuple):
    """A data set in two parts.

    Shape: inputs `x_…` are float32, (N, C, H, W) or (N, features); labels `y_…` are int64, (N,), or
    float32 targets, (N, outputs), for a regression without classes.
    `sha256` is the hash of the whole raw data, before any choice of examples.
    """

    x_train: torch.Tensor
    y_train: torch.Tensor
    x_test: torch.Tensor
    y_test: torch.Tensor
    classes: tuple[str, ...]
    name: str
    sha256: str

    def flat(self) -> "Data":
        """The same data with one row of features per example, (N, C, H, W) -> (N, C*H*W)."""
        return self._replace(x_train=self.x_train.flatten(1), x_test=self.x_test.flatten(1))

    def subset(self, train: int | None = None, test: int | None = None) -> "Data":
        """The first `train` and `test` examples. They keep the scale they had in the whole set."""
        ours = [_first(train, part, "train") for part in self[:2]]
        ours += [_first(test, part, "test") for part in self[2:4]]
        return Data(*ours, *self[4:])

    def __repr__(self) -> str:
        shape, device = tuple(self.x_train.shape[1:]), self.x_train.device
        sizes = f"{len(self.y_train)} train, {len(self.y_test)} test"
        return f"Data({self.name}: {sizes}, shape {shape}, {len(self.classes)} classes, {device})"


def default_device() -> torch.device:
    """A CUDA device where torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def digits(device="cpu", test=500, split="random", seed=0, standardize=True) -> Data:
    """Handwritten digits, 1797 real images of 8x8 pixels from the scikit-learn package.

    `standardize` uses one mean and one standard deviation, those of all pixels of the training
    part, for both parts. Without it the pixels keep their grey levels, 0 to 16.

    Args:
        test: number of test images; the others are for training.
        split: "random" draws the test images with `seed`, so both parts share writers. "writer"
            takes the last `test` in file order. The file names no writers, but neighbours seem to
            share one: these hands are then mostly new to the network, and the test is harder.
    Shape: images (N, 1, 8, 8). Raises: ValueError for an unknown split or an impossible `test`.
    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), test part.
    """
    from sklearn.datasets import load_digits  # here, because it takes a second to import

    images, labels = load_digits(return_X_y=True)
    images, total = images.astype(np.uint8).reshape(-1, 1, 8, 8), len(labels)
    if not 0 < test < total:
        raise ValueError(f"digits: expected test between 1 and {total - 1}, got {test}")
    if split not in ("random", "writer"):
        raise ValueError(f"digits: expected split 'random' or 'writer', got {split!r}")
    rng = np.random.default_rng(seed)
    order = rng.permutation(total) if split == "random" else np.arange(total)
    train, test = order[:-test], order[-test:]
    parts = [*map(torch.from_numpy, (images[train], labels[train], images[test], labels[test]))]
    raw = images, labels.astype(np.uint8)
    return _to_device(parts, tuple("0123456789"), "digits", raw, device, standardize)


def cifar10(device=None, cache=None, train=None, test=None, standardize=True) -> Data:
    """CIFAR-10: 50,000 training and 10,000 test photographs, 32x32 pixels, in ten classes.

    The first call downloads the official binary archive (170 MB); later calls read it from the
    cache. Its SHA-256 is checked, and nothing is unpickled or unpacked to disk. A download that
    breaks off is deleted, and the next call starts again from the first byte. (A process killed
    outright can leave a temporary file `tmp…` in the cache; it is never read.)

    The environment variable NORMLAB_DATA names a folder that holds `cifar-10-batches-bin`, or is
    it, and needs no network. If its files are not the official ones, byte for byte, the name says
    "local copy", with the first line of the file SOURCE.txt where there is one.

    `standardize` uses one mean and one standard deviation per colour channel, those of the
    training images returned, for both parts. Without it the pixels keep their values, 0 to 255.
    `sha256` is the hash of all six files in a row.

    Args:
        cache: folder of the archive; else NORMLAB_CACHE, else the user's cache folder.
        train, test: keep so many images, the first ones.
    Shape: images (N, 3, 32, 32).
    Raises: DataError for a failed, truncated or altered download, a full disk, a missing or
        malformed file. ValueError for a `train` or `test` larger than the set.
    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).
    """
    local = os.environ.get("NORMLAB_DATA")
    where, raw = _read_folder(Path(local).expanduser()) if local else _read_archive(_fetch(cache))
    records = [_records(raw[name], where / name) for name in CIFAR10_MD5]
    parts = []
    for part, wanted, found in ("train", train, records[:-1]), ("test", test, records[-1:]):
        found = torch.from_numpy(_first(wanted, np.concatenate(found), part))  # (N, 3073)
        parts += found[:, 1:].reshape(-1, 3, 32, 32), found[:, 0]
    name = _name_of_copy(where, raw) if local else "CIFAR-10"
    return _to_device(parts, CIFAR10_CLASSES, name, raw.values(), device, standardize)


def gaussian(n=400, test=400, mean=0.0, std=1.0, correlation=0.0, seed=0, device="cpu") -> Data:
    """Two classes in one Gaussian cloud, x = mean + std * (L z) with z ~ N(0, I).

    L is the Cholesky factor of the correlation matrix. P(y = 1) = sigmoid(2 z_1 + 2 z_2) depends
    on z alone: a seed gives one problem, seen in coordinates set by the other arguments. `mean`
    and `std` are 1 or 2 numbers. Shape: inputs (n, 2). Raises: ValueError if |correlation| >= 1.
    """
    if not -1 < correlation < 1:
        raise ValueError(f"gaussian: expected a correlation between -1 and 1, got {correlation}")
    factor = np.linalg.cholesky([[1.0, correlation], [correlation, 1.0]])

    def draw(rng, count):
        z = rng.standard_normal((count, 2))
        y = rng.random(count) < 1 / (1 + np.exp(-2 * z.sum(1)))
        return np.asarray(mean) + np.asarray(std) * (z @ factor.T), y

    return _toy("gaussian", draw, (n, test), seed, 2, device)


def rings(n=600, test=600, noise=0.08, seed=0, device="cpu") -> Data:
    """Three concentric rings, one class each, with radii 0.5, 1 and 1.5 plus N(0, noise^2).

    Antipodally symmetric: example i + n/2 is the exact negative of example i and has its label.
    Shape: inputs (n, 2). Raises: ValueError for an odd `n` or `test`.
    """
    if n % 2 or test % 2:
        raise ValueError(f"rings: expected even n and test (x comes with -x), got {n} and {test}")

    def draw(rng, count):
        y = np.arange(count // 2) % 3
        radius = 0.5 + 0.5 * y + noise * rng.standard_normal(len(y))
        angle = rng.uniform(0, 2 * np.pi, len(y))
        x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        return np.concatenate([x, -x]), np.concatenate([y, y])

    return _toy("rings", draw, (n, test), seed, 3, device)


def spirals(n=600, test=600, arms=3, noise=0.05, turns=0.75, seed=0, device="cpu") -> Data:
    """Interleaved spiral arms, one class each, of radius 0.2 to 1.5.

    Arm k starts at the angle 2 pi k / arms and makes `turns` turns; each coordinate then gets
    N(0, noise^2). With two arms, -x lies on the other arm. Shape: inputs (n, 2).
    """

    def draw(rng, count):
        y, along = np.arange(count) % arms, rng.random(count)
        angle = 2 * np.pi * (y / arms + turns * along)
        x = (0.2 + 1.3 * along)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        return x + noise * rng.standard_normal((count, 2)), y

    return _toy("spirals", draw, (n, test), seed, arms, device)


def linear_teacher(n=1000, test=1000, features=10, outputs=10, seed=0, device="cpu") -> Data:
    """A regression for the deep linear network: y = A x, with A and x drawn from N(0, 1).

    One matrix A for both parts; no noise. Shape: inputs (n, features), targets (n, outputs).
    Source: Santurkar et al. 2018, appendix A.1 (1000 examples, 10 features, 10 outputs).
    """
    teacher = np.random.default_rng([seed, 1]).standard_normal((outputs, features))

    def draw(rng, count):
        x = rng.standard_normal((count, features))
        return x, x @ teacher.T

    return _toy("linear teacher", draw, (n, test), seed, 0, device)


def _toy(name, draw, sizes, seed, classes, device) -> Data:
    rng = np.random.default_rng(seed)
    arrays = [array for count in sizes for array in draw(rng, count)]
    parts = [np.asarray(a, np.float32 if a.ndim == 2 else np.int64) for a in arrays]
    tensors, names = [*map(torch.from_numpy, parts)], tuple(map(str, range(classes)))
    return _to_device(tensors, names, name, parts, device, False)


def _first(wanted, examples, part):
    """The first `wanted` examples, or all of them for None."""
    if wanted is not None and not 0 < wanted <= len(examples):
        raise ValueError(f"expected {part} between 1 and {len(examples)}, got {wanted}")
    return examples[:wanted]


def _to_device(parts, classes, name, raw, device, standardize) -> Data:
    """Move to the device, standardise by the training part's mean and std, hash the raw data."""
    device = default_device() if device is None else torch.device(device)
    x_train, y_train, x_test, y_test = (part.to(device) for part in parts)
    x_train, x_test = x_train.float(), x_test.float()
    if classes:
        y_train, y_test = y_train.long(), y_test.long()
    levels = torch.arange(256).double()  # counted: exact, and the same on every device
    for channel in range(x_train.shape[1] if standardize else 0):
        counts = torch.bincount(parts[0][:, channel].flatten(), minlength=256).double()
        mean = (counts @ levels / counts.sum()).item()
        std = (counts @ (levels - mean).square() / counts.sum()).sqrt().item()
        if std == 0:
            raise DataError(f"{name}: expected images, got one colour in channel {channel}")
        for x in (x_train, x_test):
            x[:, channel].sub_(mean).div_(std)
    sha256 = hashlib.sha256()
    for buffer in raw:
        sha256.update(buffer)
    return Data(x_train, y_train, x_test, y_test, classes, name, sha256.hexdigest())


def _fetch(cache) -> Path:
    """Path of the checked archive in `cache`, downloaded if it is not there."""
    import pooch  # here, not above: it loads a progress bar that speaks up in every notebook
    import requests

    cache = cache or os.environ.get("NORMLAB_CACHE") or pooch.os_cache("normlab")
    base, name = CIFAR10_URL.rsplit("/", 1)
    target = Path(cache).expanduser().absolute() / name
    registry = {name: f"sha256:{CIFAR10_SHA256}"}
    shelf = pooch.create(target.parent, f"{base}/", registry=registry, retry_if_failed=RETRIES)
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16)
    try:
        return Path(shelf.fetch(name, downloader=downloader))
    except (requests.RequestException, ValueError, OSError) as error:
        cure = "Make the folder writable with 200 MB free, set NORMLAB_CACHE to another one"
        if isinstance(error, requests.RequestException):
            cure = "Check the network and run again"
        elif isinstance(error, ValueError):
            cure = "Run again, if need be from a network that leaves downloads unchanged"
        raise DataError(
            f"{target}: expected the official archive from {CIFAR10_URL}, got {error}. Nothing "
            f"half-written is kept. {cure}, or set NORMLAB_DATA to a folder with {CIFAR10_FOLDER}."
        ) from error


def _read_archive(path: Path) -> tuple[Path, dict[str, bytes]]:
    """The archive and its six files, read in one pass and in memory."""
    raw = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if folder == CIFAR10_FOLDER and name in CIFAR10_MD5 and member.isfile():
                raw[name] = archive.extractfile(member).read()
    return path, {name: raw[name] for name in CIFAR10_MD5}


def _read_folder(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """The folder of the six files, `folder` itself or one inside it, and what they hold."""
    where = folder / CIFAR10_FOLDER
    where = where if where.is_dir() else folder
    try:
        return where, {name: (where / name).read_bytes() for name in CIFAR10_MD5}
    except OSError as error:
        raise DataError(
            f"{error.filename}: expected this file, got {error.strerror!r}. Set NORMLAB_DATA (now "
            f"{str(folder)!r}) to a folder that holds {CIFAR10_FOLDER}, or unset it."
        ) from error


def _name_of_copy(where: Path, raw: dict[str, bytes]) -> str:
    """What to call a local copy: plain CIFAR-10 only if every file is the official one."""
    if all(hashlib.md5(raw[name]).hexdigest() == md5 for name, md5 in CIFAR10_MD5.items()):
        return "CIFAR-10"
    note = where / "SOURCE.txt"
    source = note.read_text("utf-8").strip().partition("\n")[0] if note.is_file() else ""
    return f"CIFAR-10 (local copy: {source})" if source else "CIFAR-10 (local copy)"


def _records(raw: bytes, path: Path) -> np.ndarray:
    """The records of one file, (N, 3073) uint8, checked."""
    if not raw or len(raw) % RECORD:
        raise DataError(
            f"{path}: expected whole records of {RECORD} bytes ({10_000 * RECORD} bytes in the "
            f"official file), got {len(raw)} bytes. Replace the file by a complete copy."
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, RECORD)
    wrong = np.flatnonzero(records[:, 0] >= len(CIFAR10_CLASSES))
    if len(wrong):
        got = f"{records[wrong[0], 0]} in record {wrong[0]}. Replace the file by a complete copy."
        raise DataError(f"{path}: expected labels 0 to 9, got {got}")
    return records
