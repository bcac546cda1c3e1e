"""On a GPU a block is labelled beside the sampling of the next one."""

import contextlib

import numpy as np
import pytest
import torch

from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.making.blocks import BlockWorker, MadeBlock, WorkOrder
from dmkd.runtime.progress import Silent


class FakeCuda:
    """Streams and events that note what happens to them."""

    def __init__(self, monkeypatch):
        self.noted = []
        fake = self

        class Event:
            def record(self, stream):
                fake.noted.append("images made")

        class Stream:
            def __init__(self, device):
                pass

            def wait_event(self, event):
                fake.noted.append("waited for")

        @contextlib.contextmanager
        def stream(chosen):
            fake.noted.append("beside")
            yield
            fake.noted.append("back")

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)


@pytest.fixture
def store(tmp_path, tiny_generator, tiny_teacher):
    options = ImageOptions(
        generator=str(tiny_generator), images=8, sampler="ddim", steps=2, block_size=8, dtype="bfloat16"
    )
    labels = LabelOptions((str(tiny_teacher),), "rrc:2")
    return generate(str(tmp_path / "s.zarr"), options, labels, RunOptions(workers=0, device="cpu"), Silent())[0]


def worker_of(store):
    return BlockWorker(WorkOrder(store.path, tuple(store.labels), "cpu", None, store.source))


def test_labels_made_beside_are_those_made_before(store, monkeypatch):
    here = worker_of(store)
    assert here.beside is None
    wanted = here.make(0, None)
    assert isinstance(wanted, MadeBlock) and here.finish(wanted) is wanted

    cuda, beside = FakeCuda(monkeypatch), worker_of(store)
    beside.beside = torch.cuda.Stream("cuda")
    (teacher,) = beside.teachers.values()
    teacher.model.register_forward_pre_hook(lambda *_: cuda.noted.append("labels"))
    made = beside.make(0, None)
    assert cuda.noted == ["images made"], "the teacher has not been asked yet"
    finished = beside.finish(made)
    assert cuda.noted[1:4] == ["beside", "waited for", "labels"] and cuda.noted[-1] == "back"
    (name,) = store.labels
    for there, expected in zip(finished.arrays["labels"][name], wanted.arrays["labels"][name], strict=True):
        np.testing.assert_array_equal(there, expected)
    np.testing.assert_array_equal(finished.arrays["images"], wanted.arrays["images"])


def test_only_a_gpu_that_samples_labels_beside(store, monkeypatch):
    FakeCuda(monkeypatch)
    worker = worker_of(store)
    worker.order = WorkOrder(store.path, tuple(store.labels), "cuda", None, store.source)
    assert worker._stream_beside() is not None
    worker.recipe = type(worker.recipe).from_json({**worker.recipe.to_json(), "dtype": "float32"})
    assert worker._stream_beside() is None, "a teacher in tf32 would change how the generator rounds"
    worker.generator = None
    assert worker._stream_beside() is None
