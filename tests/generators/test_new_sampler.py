"""A sampler is added in one place: one that only this file knows is listed, planned for, used and held to its limits."""

import json

import numpy as np
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from dmkd.cli.main import main
from dmkd.generators.samplers import SAMPLERS
from dmkd.generators.samplers.sampler import Sampler
from dmkd.generators.samplers.solver import DiffusersSolver
from dmkd.stores import open_store


class ToySampler(Sampler):
    """DDIM whose steps end a stride earlier: other images than any sampler's of the list."""

    name = "toy"
    remark = "for tests"
    scheduler = "DDIMScheduler"

    def steps(self, num_train_timesteps):
        return 3, num_train_timesteps // 100

    def guided_channels(self, latent_channels):
        return 2

    def solver(self, scheduler_config, learned_sigma):
        from diffusers import DDIMScheduler

        config = {key: value for key, value in scheduler_config.items() if key[0] != "_"}
        return DiffusersSolver(DDIMScheduler(**{**config, "timestep_spacing": "trailing"}))


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(SAMPLERS, "toy", ToySampler())


def dmkd(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def options(generator, *more):
    return ["--generator", generator, "--sampler", "toy", "--teacher", "none", "--device", "cpu", *more]


def test_images_are_made_planned_for_and_made_again(tiny_generator, tmp_path):
    done = dmkd("generate", "--store", tmp_path / "s.zarr", *options(tiny_generator, "--steps", 3, "--images", 16))
    assert done.exit_code == 0 and 'sampler = "toy"' in done.stderr, done.output
    store = open_store(tmp_path / "s.zarr")
    assert (store.recipe["sampler"], store.recipe["guided_channels"]) == ("toy", 2)

    plain = options(tiny_generator, "--steps", 3, "--images", 16, "--guided-channels", 2)
    assert dmkd("generate", "--store", tmp_path / "ddim.zarr", *plain, "--sampler", "ddim").exit_code == 0
    assert not np.array_equal(store.images[:], open_store(tmp_path / "ddim.zarr").images[:])

    done = dmkd("verify", tmp_path / "s.zarr", "--regenerate", 1, "--device", "cpu", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["regenerate"]["max_difference"] == 0
    planned = dmkd("plan", "--store", tmp_path / "n.zarr", *options(tiny_generator, "--steps", 4), "--json")
    found = json.loads(planned.stdout)
    assert (found["recipe"]["sampler"], found["model_calls_per_image"]) == ("toy", 8)


@pytest.mark.parametrize("command", ["generate", "plan"])
@pytest.mark.parametrize("steps", [2, 11])
def test_it_is_held_to_its_own_limits(tiny_generator, tmp_path, command, steps):
    done = dmkd(command, "--store", tmp_path / "s.zarr", *options(tiny_generator, "--steps", steps))
    assert done.exit_code == 2
    assert f"{steps} steps: with this generator the sampler toy takes 3 to 10 steps." in done.stderr


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_help_and_completion_list_it(command):
    shown = " ".join(dmkd(command, "--help").stdout.split())
    assert "ddpm (DM-KD's), ddim, dpm++, unipc or toy (for tests); text-to-image: pipeline (its own)," in shown
    offered = BashComplete(main, {}, "dmkd", "_DMKD_COMPLETE").get_completions([command, "--sampler"], "t")
    assert [item.value for item in offered] == ["toy"]


def test_text_to_image_pipelines_take_the_scheduler_that_it_stands_for(tmp_path):
    from tiny_text_models import save_tiny_text_pipeline

    (tmp_path / "names.txt").write_text("cat\ndog\n")
    folder = save_tiny_text_pipeline(tmp_path / "sd", "StableDiffusionPipeline")
    told = options(folder, "--class-names", tmp_path / "names.txt", "--images", 2)
    done = dmkd("generate", "--store", tmp_path / "s.zarr", *told, "--steps", 3)
    assert done.exit_code == 0 and open_store(tmp_path / "s.zarr").recipe["sampler"] == "toy", done.output
    done = dmkd("generate", "--store", tmp_path / "t.zarr", *told, "--steps", 11)
    assert done.exit_code == 2 and "the sampler toy takes 3 to 10 steps" in done.stderr
