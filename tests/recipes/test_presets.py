"""Ways of sampling by name."""

import json

import pytest
from click.testing import CliRunner

from dmkd.cli.main import main
from dmkd.making.asked import check_images
from dmkd.recipes.image_options import PRESETS, ImageOptions
from dmkd.stores import UsageError


def planned(tmp_path, *options):
    words = ["plan", "--store", tmp_path / "new.zarr", "--json", *options]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_preset_gives_options_that_are_not_given():
    options = ImageOptions(preset="fast", steps=10).with_preset()
    assert (options.sampler, options.steps, options.guidance, options.guidance_interval) == (
        "dpm++",
        10,
        2.0,
        "0.1:0.27",
    )
    plain = ImageOptions(steps=10)
    assert plain.with_preset() == plain


def test_an_unknown_preset_is_refused():
    with pytest.raises(UsageError, match="--preset must be one of dm-kd, fast, not 'slow'"):
        check_images(ImageOptions(preset="slow"))


def test_the_plan_has_what_each_preset_takes(tmp_path):
    plan = planned(tmp_path)
    assert plan["presets"].keys() == PRESETS.keys()
    dm_kd, fast = (plan["presets"][name] for name in ("dm-kd", "fast"))
    assert dm_kd == {"model_calls": 200, "flops_per_image": plan["flops_per_image"]["total"]}, "the default is DM-KD's"
    # 25 steps, and of these the four between the timesteps 100 and 270 twice
    assert fast["model_calls"] == 29 and 6 < dm_kd["flops_per_image"] / fast["flops_per_image"] < 7
    asked = planned(tmp_path, "--preset", "fast")
    assert asked["flops_per_image"]["total"] == fast["flops_per_image"] and asked["model_calls_per_image"] == 29
    assert (asked["recipe"]["sampler"], asked["recipe"]["guidance-interval"]) == ("dpm++", "0.1:0.27")


def test_a_preset_wins_over_a_recipe_and_what_is_typed_over_both(tmp_path):
    (tmp_path / "r.toml").write_text('sampler = "ddim"\nsteps = 7\nseed = 3\n')
    recipe = planned(tmp_path, "--recipe", tmp_path / "r.toml", "--preset", "fast", "--guidance", 4)["recipe"]
    assert (recipe["sampler"], recipe["steps"], recipe["seed"], recipe["guidance"]) == ("dpm++", 25, 3, 4.0)
