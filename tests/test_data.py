"""The data sets: what they hold, and what happens when a download or a file is broken."""

import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np
import pooch
import pytest
import torch

from normlab import data

NAMES = list(data.CIFAR10_MD5)


def records(seed, count=20):
    """Random records in the official layout, each class in turn."""
    out = np.random.default_rng(seed).integers(0, 256, (count, data.RECORD), dtype=np.uint8)
    out[:, 0] = np.arange(count) % 10
    return out


FILES = {name: records(seed).tobytes() for seed, name in enumerate(NAMES)}


def pack(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in ["readme.html", *reversed(files)]:  # the order inside must not matter
            content = files.get(name, b"<html>")
            member = tarfile.TarInfo(f"{data.CIFAR10_FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = pack(FILES)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the next word in `server.script` says, and with the whole archive after that."""

    def do_GET(self):
        script = self.server.script
        how = script.pop(0) if script else "good"
        self.server.answers.append(how)
        if how == "missing":
            return self.send_error(404)
        body = {"tampered": ARCHIVE[:-100] + bytes(100), "page": b"<html>Log in</html>"}
        body = body.get(how, ARCHIVE)
        self.send_response(200)
        if how != "truncated, length unknown":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if how.startswith("truncated") else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A local server in the place of the official one, and an empty cache folder."""
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.script, httpd.answers = [], []
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("NORMLAB_DATA", raising=False)
    monkeypatch.setenv("NORMLAB_CACHE", str(tmp_path / "the cache"))
    url = f"http://127.0.0.1:{httpd.server_port}/~kriz/cifar-10-binary.tar.gz"
    monkeypatch.setattr(data, "CIFAR10_URL", url)
    monkeypatch.setattr(data, "CIFAR10_SHA256", hashlib.sha256(ARCHIVE).hexdigest())
    monkeypatch.setattr(data, "RETRIES", 0)
    httpd.cache = tmp_path / "the cache"
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A local copy in a path with spaces, named by NORMLAB_DATA; any download would fail."""
    inner = tmp_path / "my own data" / data.CIFAR10_FOLDER
    inner.mkdir(parents=True)
    for name, content in FILES.items():
        (inner / name).write_bytes(content)
    monkeypatch.setenv("NORMLAB_DATA", str(inner.parent))
    monkeypatch.setattr(data, "CIFAR10_URL", "http://127.0.0.1:9/none.tar.gz")
    return inner


def listing(path):
    return sorted(p.name for p in path.iterdir()) if path.is_dir() else []


def cpu(**options):
    return data.cifar10(device="cpu", **options)


# --- the download ---------------------------------------------------------------------------


def test_download_gives_the_pixels_of_the_archive(server):
    got = cpu(standardize=False)
    train = np.concatenate([records(seed) for seed in range(5)])
    test = records(5)
    assert got.x_train.shape == (100, 3, 32, 32) and got.x_test.shape == (20, 3, 32, 32)
    assert got.x_train.dtype == torch.float32 and got.y_train.dtype == torch.int64
    assert np.array_equal(got.x_train.flatten(1).numpy(), train[:, 1:])
    assert np.array_equal(got.x_test.flatten(1).numpy(), test[:, 1:])
    assert got.y_train.tolist() == train[:, 0].tolist()
    assert got.y_test.tolist() == test[:, 0].tolist()
    assert (
        got.x_test[3, 2, 1, 5] == test[3, 1 + 2 * 1024 + 1 * 32 + 5]
    )  # blue plane, row 1, column 5
    assert got.name == "CIFAR-10" and got.classes[9] == "truck"
    assert got.sha256 == hashlib.sha256(b"".join(FILES.values())).hexdigest()


def test_second_call_does_not_download_again(server):
    first, second = cpu(), cpu()
    assert server.answers == ["good"]
    assert torch.equal(first.x_train, second.x_train)
    assert listing(server.cache) == ["cifar-10-binary.tar.gz"]


def test_cache_argument_goes_before_the_environment(server, tmp_path):
    cpu(cache=tmp_path / "elsewhere")
    assert listing(tmp_path / "elsewhere") == ["cifar-10-binary.tar.gz"]
    assert listing(server.cache) == []


FAILURES = {
    "tampered": ["official archive", "SHA256", "Run again"],
    "page": ["official archive", "SHA256", "Run again"],
    "truncated": ["official archive", "IncompleteRead", "Check the network"],
    "truncated, length unknown": ["official archive", "SHA256", "Run again"],
    "missing": ["404", "Check the network"],
}


@pytest.mark.parametrize("how", FAILURES)
def test_failed_download_names_the_file_and_the_cure_and_leaves_nothing(server, how):
    server.script = [how]
    with pytest.raises(data.DataError) as caught:
        cpu()
    for words in [str(server.cache / "cifar-10-binary.tar.gz"), data.CIFAR10_URL, *FAILURES[how]]:
        assert words in str(caught.value)
    assert "NORMLAB_DATA" in str(caught.value)
    assert listing(server.cache) == []
    assert len(cpu().y_train) == 100  # the next call starts again, and succeeds
    assert server.answers == [how, "good"]
    assert listing(server.cache) == ["cifar-10-binary.tar.gz"]


def test_one_call_tries_again_after_an_interruption(server, monkeypatch):
    monkeypatch.setattr(data, "RETRIES", 1)
    server.script = ["truncated"]
    assert len(cpu().y_train) == 100
    assert server.answers == ["truncated", "good"]
    assert listing(server.cache) == ["cifar-10-binary.tar.gz"]


def test_damaged_archive_in_the_cache_is_downloaded_again(server):
    cpu()
    (server.cache / "cifar-10-binary.tar.gz").write_bytes(ARCHIVE[:-1])
    assert len(cpu().y_train) == 100
    assert server.answers == ["good", "good"]


def test_no_network(server, monkeypatch):
    monkeypatch.setattr(data, "CIFAR10_URL", "http://127.0.0.1:9/cifar-10-binary.tar.gz")
    with pytest.raises(data.DataError, match="Check the network.*NORMLAB_DATA"):
        cpu()
    assert listing(server.cache) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_stop_in_the_middle_of_writing_leaves_nothing(server, monkeypatch, error):
    def write_half(self, url, output_file, *args, **options):
        with open(output_file, "wb") as out:
            out.write(ARCHIVE[:100])
        assert len(listing(server.cache)) == 1
        raise error

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", write_half)
    expected = data.DataError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        cpu()
    if expected is data.DataError:
        assert "No space left" in str(caught.value) and "200 MB" in str(caught.value)
    assert listing(server.cache) == []


def test_cache_that_cannot_be_a_folder(server, tmp_path):
    (tmp_path / "a file").write_text("")
    with pytest.raises(data.DataError, match="a file.*NORMLAB_CACHE"):
        cpu(cache=tmp_path / "a file")
    assert server.answers == []


# --- a local copy ---------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["the folder itself", "the folder around it"])
def test_local_copy(folder, monkeypatch, which):
    inside = which == "the folder itself"
    monkeypatch.setenv("NORMLAB_DATA", str(folder if inside else folder.parent))
    got = cpu(standardize=False)
    assert np.array_equal(got.x_test.flatten(1).numpy(), records(5)[:, 1:])
    assert got.name == "CIFAR-10 (local copy)"
    assert got.sha256 == hashlib.sha256(b"".join(FILES.values())).hexdigest()


def test_name_of_a_local_copy_says_what_it_is(folder, monkeypatch):
    (folder / "SOURCE.txt").write_text("JPEG re-encoded\nmore\n")
    assert cpu().name == "CIFAR-10 (local copy: JPEG re-encoded)"
    official = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(data, "CIFAR10_MD5", official)
    assert cpu().name == "CIFAR-10"
    (folder / NAMES[3]).write_bytes(records(99).tobytes())
    assert cpu().name == "CIFAR-10 (local copy: JPEG re-encoded)"


def broken(folder, what):
    """Break the copy; return what the message must say."""
    path = folder / NAMES[2]
    if what == "no folder":
        for name in NAMES:
            (folder / name).unlink()
        folder.rmdir()
        folder.parent.rmdir()
        return [str(folder.parent), "No such file", "Set NORMLAB_DATA"]
    if what == "no file":
        path.unlink()
        return [str(path), "No such file", "Set NORMLAB_DATA"]
    if what == "wrong length":
        path.write_bytes(FILES[NAMES[2]][:-1])
        return [str(path), str(20 * 3073 - 1), "3073", "complete copy"]
    if what == "empty":
        path.write_bytes(b"")
        return [str(path), "got 0 bytes", "complete copy"]
    wrong = records(2)
    wrong[7, 0] = 200
    path.write_bytes(wrong.tobytes())
    return [str(path), "labels 0 to 9", "got 200 in record 7", "complete copy"]


@pytest.mark.parametrize("what", ["no folder", "no file", "wrong length", "empty", "label 200"])
def test_broken_copy_names_the_file_and_the_cure(folder, what):
    expected = broken(folder, what)
    with pytest.raises(data.DataError) as caught:
        cpu()
    for words in expected:
        assert words in str(caught.value)


def test_images_of_one_colour_cannot_be_standardised(folder):
    for name in NAMES:
        blank = records(0)
        blank[:, 1 + 1024 : 1 + 2048] = 17
        (folder / name).write_bytes(blank.tobytes())
    with pytest.raises(data.DataError, match="channel 1"):
        cpu()


# --- statistics and sizes -------------------------------------------------------------------


def test_cifar_is_standardised_per_channel_by_the_training_part(folder):
    before, raw = cpu(), cpu(standardize=False)
    dims = (0, 2, 3)
    torch.testing.assert_close(before.x_train.mean(dims), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(before.x_train.var(dims, correction=0), torch.ones(3))
    mean, std = raw.x_train.mean(dims), raw.x_train.std(dims, correction=0)
    by_hand = (raw.x_test - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(before.x_test, by_hand, atol=1e-4, rtol=1e-4)
    (folder / "test_batch.bin").write_bytes(np.minimum(records(5), 9).tobytes())
    after = cpu()
    assert torch.equal(before.x_train, after.x_train)
    assert not torch.equal(before.x_test, after.x_test)


def test_sizes_are_chosen_from_the_front(folder):
    got, raw = cpu(train=30, test=7, standardize=False), cpu(standardize=False)
    assert torch.equal(got.x_train, raw.x_train[:30]) and torch.equal(got.y_test, raw.y_test[:7])
    assert got.sha256 == raw.sha256
    part = raw.subset(train=30)
    assert torch.equal(part.x_train, got.x_train) and len(part.y_test) == 20
    assert raw.flat().x_train.shape == (100, 3072)
    with pytest.raises(ValueError, match="train between 1 and 100, got 101"):
        cpu(train=101)
    with pytest.raises(ValueError, match="test between 1 and 20, got 0"):
        raw.subset(test=0)


def rows(x):
    return {bytes(row.numpy().astype(np.uint8)) for row in x.flatten(1)}


def test_digits_split_is_deterministic_and_disjoint():
    from sklearn.datasets import load_digits

    got = data.digits("cpu", standardize=False)
    assert got.x_train.shape == (1297, 1, 8, 8) and got.x_test.shape == (500, 1, 8, 8)
    everything = rows(torch.from_numpy(load_digits().data))
    assert len(everything) == 1797  # no two images are equal, so sets can stand for images
    assert not rows(got.x_train) & rows(got.x_test)
    assert rows(got.x_train) | rows(got.x_test) == everything
    again, other = data.digits("cpu", standardize=False), data.digits("cpu", seed=1)
    assert torch.equal(got.x_test, again.x_test) and torch.equal(got.y_train, again.y_train)
    assert not torch.equal(got.y_test, other.y_test)
    assert got.sha256 == other.sha256


def test_digits_writer_split_is_file_order():
    from sklearn.datasets import load_digits

    got, file = data.digits("cpu", test=300, split="writer", standardize=False), load_digits()
    pixels = torch.from_numpy(file.images).float()[:, None]
    assert torch.equal(got.x_train, pixels[:-300]) and torch.equal(got.x_test, pixels[-300:])
    assert got.y_test.tolist() == file.target[-300:].tolist()


def test_digits_use_one_mean_and_std_of_the_training_part():
    raw, got = data.digits("cpu", standardize=False), data.digits("cpu")
    mean, std = raw.x_train.double().mean(), raw.x_train.double().std(correction=0)
    torch.testing.assert_close(got.x_train, ((raw.x_train - mean) / std).float())
    torch.testing.assert_close(got.x_test, ((raw.x_test - mean) / std).float())
    assert abs(got.x_test.mean()) > 1e-4  # the test part has a mean of its own


@pytest.mark.parametrize("wrong", [{"test": 0}, {"test": 1797}, {"split": "writers"}])
def test_digits_refuse_an_impossible_split(wrong):
    with pytest.raises(ValueError, match="digits: expected"):
        data.digits("cpu", **wrong)


# --- toy sets -------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [data.gaussian, data.rings, data.spirals])
def test_toy_sets_depend_on_the_seed_alone(make):
    one, same, other = make(device="cpu"), make(device="cpu"), make(seed=1, device="cpu")
    assert torch.equal(one.x_train, same.x_train) and one.sha256 == same.sha256
    assert not torch.equal(one.x_train, other.x_train) and one.sha256 != other.sha256
    assert one.x_train.shape[1:] == (2,) and one.x_train.dtype == torch.float32
    assert not torch.equal(one.x_train, one.x_test)
    assert set(one.y_train.tolist()) == set(range(len(one.classes)))


def test_rings_are_antipodally_symmetric():
    for x, y in [data.rings(60, 30, device="cpu")[:2], data.rings(60, 30, device="cpu")[2:4]]:
        half = len(x) // 2
        assert torch.equal(x[:half], -x[half:]) and torch.equal(y[:half], y[half:])
    radius = data.rings(device="cpu").x_train.norm(dim=1)
    label = data.rings(device="cpu").y_train
    assert [round(radius[label == k].mean().item(), 1) for k in range(3)] == [0.5, 1.0, 1.5]
    with pytest.raises(ValueError, match="even"):
        data.rings(61)


def test_two_spiral_arms_are_each_other_negated():
    got = data.spirals(2000, arms=2, noise=0.0, device="cpu")
    x, y = got.x_train, got.y_train
    distance = torch.cdist(-x[y == 0], x[y == 1]).min(1).values
    assert distance.quantile(0.99) < 0.05
    assert torch.cdist(x[y == 0], x[y == 1]).min() > 0.1  # and the arms never meet


def test_gaussian_is_one_problem_in_other_coordinates():
    plain = data.gaussian(4000, device="cpu")
    moved = data.gaussian(4000, mean=(5, -2), std=(10, 0.1), correlation=0.9, device="cpu")
    assert torch.equal(plain.y_train, moved.y_train)
    torch.testing.assert_close(moved.x_train.mean(0), torch.tensor([5.0, -2.0]), rtol=0.1, atol=0)
    torch.testing.assert_close(moved.x_train.std(0), torch.tensor([10.0, 0.1]), rtol=0.1, atol=0)
    assert abs(torch.corrcoef(moved.x_train.T)[0, 1] - 0.9) < 0.02
    with pytest.raises(ValueError, match="correlation"):
        data.gaussian(correlation=1.0)


def test_data_prints_as_one_line_and_defaults_to_the_gpu_where_there_is_one():
    got = data.rings(6, 6)
    assert got.x_train.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert repr(got).startswith("Data(rings: 6 train, 6 test, shape (2,), 3 classes, ")
