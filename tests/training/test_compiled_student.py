"""What torch.compile makes of a student, with a backend that only counts."""

import functools

import torch
from conftest import filled_store

from dmkd.classifiers.students import create_student, preprocessing_of
from dmkd.training.objective import Objective
from dmkd.training.sources import open_loader
from dmkd.training.training_recipe import resolve_training


def test_batches_of_n_and_one_fewer_are_two_graphs_of_fixed_shapes(tmp_path, monkeypatch):
    store = filled_store(tmp_path / "s.zarr", num_images=33, image_shape=(32, 32, 3))
    _, recipe = resolve_training(store, {"student": "test_resnet", "batch_size": 9, "epochs": 1, "lr": 0.01})
    loader = open_loader(recipe, store, "cpu")
    graphs = []

    def counting(graph, inputs):
        graphs.append(any(isinstance(value, torch.SymInt) for value in inputs))
        return graph

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counting))
    model = create_student(recipe.student, 10, 32)
    objective = Objective(
        recipe, loader.decoder, model, preprocessing_of(loader.view_set.attributes), compile=True
    ).train()
    sizes = []
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            sizes.append(len(batch))
            objective(batch, 0.0)
    assert set(sizes) == {8, 9} and len(sizes) == 8
    assert graphs == [False, False]
