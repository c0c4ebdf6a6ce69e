"""Networks that OpenCV runs. If these break, the same picture gets another mask on another machine,
or a file that nobody pinned is loaded."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from ace_tasks.errors import WeightsError
from ace_tasks.model import dnn
from ace_tasks.model.dnn import SHIPPED, Network, shipped_sha256
from ace_tasks.model.onnx import read_graph
from tests.support import tiny_onnx

U2NETP = "u2netp/u2netp.onnx"
BLOB = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 48)).astype(np.float32)


@pytest.fixture
def any_threads() -> Iterator[None]:
    """Give OpenCV its threads back."""
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


def load(path: Path, data: bytes) -> Network:
    path.write_bytes(data)
    return Network.load(path, hashlib.sha256(data).hexdigest())


def test_a_network_gives_the_same_bits_with_one_thread_and_with_many(any_threads: None) -> None:
    network = Network.shipped(U2NETP)
    blob = np.random.default_rng(1).normal(0, 1, (1, 3, 320, 320)).astype(np.float32)
    answers = []
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        answers.append(network.run(blob))
    assert len(answers[0]) == 7
    for name, values in answers[0].items():
        assert values.std() > 0
        assert all(np.array_equal(values, each[name]) for each in answers)


def test_networks_are_loaded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two replicas' threads that load their first network at once can end the process."""
    inside: list[int] = []
    most = []
    all_ask = threading.Barrier(4)

    def read(data: np.ndarray) -> object:
        inside.append(1)
        time.sleep(0.02)  # another thread that could come in would
        most.append(len(inside))
        inside.pop()
        return cv2.dnn.readNetFromONNX(data)

    def ask(n: int) -> Network:
        all_ask.wait()
        return load(tmp_path / f"{n}.onnx", tiny_onnx.model())

    monkeypatch.setitem(dnn._READERS, ".onnx", read)
    with ThreadPoolExecutor(4) as threads:
        networks = list(threads.map(ask, range(4)))
    assert most == [1] * 4
    answers = [network.run(BLOB)["map"] for network in networks]
    assert all(np.array_equal(each, answers[0]) for each in answers)


def test_a_network_computes_what_its_file_says(tmp_path: Path) -> None:
    network = load(tmp_path / "a.onnx", tiny_onnx.model())
    wanted = 1 / (1 + np.exp(-(4 * BLOB[:, :1] - 4 * BLOB[:, 1:2])))
    found = network.run(BLOB)["map"]
    assert found.shape == (1, 1, 32, 48)
    assert np.abs(found - wanted).max() < 1e-5


def test_what_is_shipped_is_the_published_file() -> None:
    sha256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
    assert shipped_sha256(U2NETP) == sha256
    assert hashlib.sha256((SHIPPED / U2NETP).read_bytes()).hexdigest() == sha256
    with pytest.raises(WeightsError, match=r"no file other\.onnx in its list"):
        shipped_sha256("u2netp/other.onnx")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        pytest.param("a.onnx", b"", "OpenCV cannot load it", id="empty"),
        pytest.param("a.onnx", b"no network at all" * 9, "OpenCV cannot load it", id="text"),
        pytest.param("a.onnx", tiny_onnx.model()[:200], "OpenCV cannot load it", id="half"),
        pytest.param("a.tflite", b"no network at all" * 9, "OpenCV cannot load it", id="tflite"),
        pytest.param("a.pt", tiny_onnx.model(), r"accepted: \.onnx, \.tflite", id="suffix"),
    ],
)
def test_a_file_that_is_no_network_is_refused_in_one_line(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    with pytest.raises(WeightsError, match=message) as refused:
        load(tmp_path / name, data)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_other_bytes_than_were_pinned_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(tiny_onnx.model())
    with pytest.raises(WeightsError, match="altered; expected SHA-256 0000"):
        Network.load(path, "0" * 64)
    with pytest.raises(WeightsError, match=r"b\.onnx: No such file"):
        Network.load(tmp_path / "b.onnx", "0" * 64)


# ---------------------------------------------------------------- what a file says of itself


def test_a_graph_lists_its_inputs_and_outputs_and_no_weights_among_them() -> None:
    graph = read_graph(tiny_onnx.model((1, 3, None, 48)))
    assert graph.inputs == {"picture": (1, 3, None, 48)}
    assert graph.outputs == {"map": (1, 1, None, 48)}
    u2netp = read_graph((SHIPPED / U2NETP).read_bytes())
    assert u2netp.inputs == {"input.1": (1, 3, 320, 320)}
    assert next(iter(u2netp.outputs.values())) == (1, 1, 320, 320)


def test_a_graph_that_keeps_numbers_elsewhere_is_refused() -> None:
    """No list of hashes names that file, and its path may lead out of the folder."""
    with pytest.raises(ValueError, match="in other files"):
        read_graph(tiny_onnx.model(external="../../secret"))
    inside = tiny_onnx.tensor("hidden", [1], [1.0], external="/etc/passwd")
    attribute = tiny_onnx.message(5, tiny_onnx.message(5, inside))
    graph = tiny_onnx.message(1, tiny_onnx.message(4, "Constant") + attribute)
    with pytest.raises(ValueError, match="in other files"):
        read_graph(tiny_onnx.message(7, graph))


def test_hostile_bytes_are_no_graph() -> None:
    nested = b""
    for _ in range(40):
        nested = tiny_onnx.message(1, tiny_onnx.message(5, tiny_onnx.message(6, nested)))
    for data in (b"", b"\xff" * 20, tiny_onnx.model()[:-5], tiny_onnx.message(7, nested)):
        with pytest.raises(ValueError, match=r"ONNX|ends too early|nested"):
            read_graph(data)
