"""On a GPU a block is labelled beside the sampling of the next one."""

import contextlib

import numpy as np
import pytest
import torch
from absent_gpu import absent_gpu, to_absent_gpu

from dmkd.classifiers.load import load_classifier
from dmkd.generate import ImageOptions, LabelOptions, RunOptions, generate
from dmkd.making.blocks import BlockWorker, MadeBlock, WorkOrder
from dmkd.making.label_sets import new_view_set
from dmkd.making.labelling import label_views
from dmkd.runtime.accelerators import upload
from dmkd.runtime.progress import Silent
from dmkd.views.policy import ViewPolicy, ViewsWanted


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


@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_labels_are_waited_for_once_when_all_are_queued(tiny_teacher, kind, precision):
    """And an Apple GPU is asked for nothing that it lacks."""
    teacher = load_classifier(str(tiny_teacher), precision=precision)
    views = np.tile(np.array([0, 0.1, 0.7, 0.9, 1], np.float32), (8, 40, 1))
    description = new_view_set(ViewsWanted(ViewPolicy()), 0, True, teacher, (32, 32), 8)
    waits = []
    with absent_gpu(waits, kind):
        to_absent_gpu(teacher.model)
        images = upload(torch.zeros(8, 32, 32, 3, dtype=torch.uint8), "cuda")
        assert label_views(teacher, images, views, description).shape == (8, 40, 10)
    assert len(waits) == (kind == "cuda")


def test_only_a_gpu_that_samples_labels_beside(store, monkeypatch):
    FakeCuda(monkeypatch)
    worker = worker_of(store)
    worker.order = WorkOrder(store.path, tuple(store.labels), "cuda", None, store.source)
    assert worker._stream_beside() is not None
    worker.recipe = type(worker.recipe).from_json({**worker.recipe.to_json(), "dtype": "float32"})
    assert worker._stream_beside() is None, "a teacher in tf32 would change how the generator rounds"
    worker.generator = None
    assert worker._stream_beside() is None
