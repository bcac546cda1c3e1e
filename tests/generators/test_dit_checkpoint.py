"""dit:FILE and --vae: a checkpoint of DiT's own code, and another decoder."""

import argparse
import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from tiny_models import save_tiny_dit
from tiny_text_models import save_tiny_text_pipeline

from dmkd.cli.main import main
from dmkd.generators.dit_checkpoint import read_checkpoint
from dmkd.stores import DmkdError, UsageError, open_store

WIDTH, HEADS, DEPTH, PATCH, LATENT, CLASSES = 384, 6, 2, 2, 8, 10


def sines(length, width):
    """Peebles & Xie's positions of patches: half of the width for each axis, the column first. float32 (length ** 2, width)."""
    frequencies = 1 / 10_000 ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(length), torch.arange(length), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (columns, rows)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1).float()


def original_weights(seed=0, width=WIDTH):
    """Random weights by the names and shapes that DiT's own code has."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x_embedder.proj": (width, 4, PATCH, PATCH),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (PATCH * PATCH * 8, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for block in range(DEPTH):
        inside = {
            "attn.qkv": (3, 1),
            "attn.proj": (1, 1),
            "mlp.fc1": (4, 1),
            "mlp.fc2": (1, 4),
            "adaLN_modulation.1": (6, 1),
        }
        shapes |= {f"blocks.{block}.{name}": (a * width, b * width) for name, (a, b) in inside.items()}
    state = {"pos_embed": sines(LATENT // PATCH, width)[None]}
    state["y_embedder.embedding_table.weight"] = 0.1 * torch.randn((CLASSES + 1, width), generator=generator)
    for name, shape in shapes.items():
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


def original_dit(w, x, t, y):
    """The model of the paper (sections 3.1 and 3.2, figure 3), written down from it: latents (n, 4, 8, 8) -> (n, 8, 8, 8)."""

    def linear(name, inputs):
        return F.linear(inputs, w[f"{name}.weight"], w[f"{name}.bias"])

    def modulated(inputs, shift, scale):
        return F.layer_norm(inputs, (WIDTH,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    angles = t[:, None] * 10_000 ** (-torch.arange(128) / 128)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))))
    condition = F.silu(time + w["y_embedder.embedding_table.weight"][y])
    tokens = (
        F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH).flatten(2).mT + w["pos_embed"]
    )
    n, length, _ = tokens.shape
    for block in range(DEPTH):
        its = f"blocks.{block}"
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(f"{its}.adaLN_modulation.1", condition).chunk(6, 1)
        qkv = linear(f"{its}.attn.qkv", modulated(tokens, shift1, scale1)).view(n, length, 3, HEADS, -1)
        attended = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        tokens = tokens + gate1[:, None] * linear(f"{its}.attn.proj", attended)
        hidden = F.gelu(linear(f"{its}.mlp.fc1", modulated(tokens, shift2, scale2)), approximate="tanh")
        tokens = tokens + gate2[:, None] * linear(f"{its}.mlp.fc2", hidden)
    shift, scale = linear("final_layer.adaLN_modulation.1", condition).chunk(2, 1)
    out = linear("final_layer.linear", modulated(tokens, shift, scale))
    side = LATENT // PATCH
    return out.view(n, side, side, PATCH, PATCH, 8).permute(0, 5, 1, 3, 2, 4).reshape(n, 8, LATENT, LATENT)


def save_as_training_does(path, weights):
    """A checkpoint of DiT's train.py: model, moving average, optimiser and options."""
    other = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"model": other, "ema": weights, "opt": {"state": {}}, "args": argparse.Namespace(epochs=3)}, path)
    return path


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A VAE in a folder of its own, as stabilityai/sd-vae-ft-mse is a repository of its own."""
    pipeline = save_tiny_dit(tmp_path_factory.mktemp("pipeline") / "p")
    return shutil.copytree(pipeline / "vae", tmp_path_factory.mktemp("vae") / "vae")


def run(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def generate(store, *words, code=0):
    options = (
        "--images",
        20,
        "--steps",
        2,
        "--sampler",
        "ddim",
        "--block-size",
        10,
        "--teacher",
        "none",
        "--device",
        "cpu",
    )
    return run("generate", "--store", store, "--workers", 0, *options, *words, code=code)


def test_a_checkpoint_computes_what_the_paper_says(tmp_path):
    weights = original_weights()
    checkpoint = read_checkpoint(str(save_as_training_does(tmp_path / "0050000.pt", weights)))
    x, t, y = torch.randn(4, 4, LATENT, LATENT), torch.tensor([0, 17, 500, 999]), torch.tensor([0, 3, 9, CLASSES])
    with torch.no_grad():
        ours = checkpoint.model(torch.float32).eval()(x, timestep=t, class_labels=y).sample
    expected = original_dit(weights, x, t, y)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["plain.pt", "old.pt", "parallel.pth", "w.safetensors"])
def test_weights_alone_are_read_in_every_wrapping(tmp_path, name):
    from safetensors.torch import save_file

    weights, file = original_weights(), tmp_path / name
    if name == "w.safetensors":
        save_file(weights, file)
    elif name == "parallel.pth":
        torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=name != "old.pt")
    found = read_checkpoint(str(file))
    assert found.config["num_layers"] == DEPTH and found.config["sample_size"] == LATENT
    assert torch.equal(found.state["blocks.1.mlp.fc1.weight"], weights["blocks.1.mlp.fc1.weight"])


class Hostile:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"ema": original_weights(), "args": Hostile()}, tmp_path / "bad.pt")
    with pytest.raises(DmkdError, match="contains code or objects other than weights"):
        read_checkpoint(str(tmp_path / "bad.pt"))
    assert "must not" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: w.pop("blocks.1.attn.qkv.bias"), "incomplete"),
        (lambda w: w.update(pos_embed=torch.randn_like(w["pos_embed"])), "position embeddings of its own"),
        (lambda w: w.pop("x_embedder.proj.weight"), "holds no DiT as its authors' code saves it"),
    ],
)
def test_what_is_no_dit_is_refused(tmp_path, change, sentence):
    weights = original_weights()
    change(weights)
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(DmkdError, match=sentence):
        read_checkpoint(str(tmp_path / "w.pt")).model(torch.float32)


def test_a_width_that_the_paper_has_not_is_refused(tmp_path):
    torch.save(original_weights(width=64), tmp_path / "w.pt")
    with pytest.raises(UsageError, match="width 64, and how many attention heads"):
        _ = read_checkpoint(str(tmp_path / "w.pt")).config


def test_a_store_is_made_grown_checked_and_repeated_from_a_checkpoint(tmp_path, vae, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_as_training_does(tmp_path / "mine.pt", original_weights())
    (tmp_path / "names.txt").write_text("".join(f"kind {i}\n" for i in range(CLASSES)))
    generate("s.zarr", "--generator", "dit:mine.pt", "--vae", vae, "--class-names", "names.txt")
    store = open_store("s.zarr")
    assert store.recipe["generator"] == "mine" and store.class_names[3] == "kind 3"
    run("generate", "--store", "s.zarr", "--images", 30, "--workers", 0, "--device", "cpu", "--teacher", "none")
    run(
        "generate", "--store", "s.zarr", "--images", 40, "--workers", 0, "--device", "cpu", "--generator", "dit:mine.pt"
    )
    assert "0.0000%" in run("verify", "s.zarr", "--regenerate", "1", "--device", "cpu").stdout
    run("generate", "--store", "t.zarr", "--like", "s.zarr", "--images", 40, "--workers", 0, "--device", "cpu")
    assert (open_store("t.zarr").images[:] == store.images[:]).all() and open_store("t.zarr").identity == store.identity
    save_as_training_does(tmp_path / "mine.pt", original_weights(seed=1))
    wrong = run("generate", "--store", "s.zarr", "--images", 50, "--workers", 0, "--device", "cpu", code=2)
    assert "generator_sha256" in wrong.stderr


def test_another_vae_is_another_generator_and_its_own_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own, other = save_tiny_dit("own"), save_tiny_dit("other", seed=1)
    generate("a.zarr", "--generator", "own")
    generate("b.zarr", "--generator", "own", "--vae", own / "vae")
    generate("c.zarr", "--generator", "own", "--vae", other)  # a whole pipeline: its VAE is meant
    a, b, c = (open_store(f"{name}.zarr") for name in "abc")
    assert a.identity == b.identity != c.identity and (a.images[:] != c.images[:]).any()
    assert "0.0000%" in run("verify", "c.zarr", "--regenerate", "1", "--device", "cpu").stdout
    grow = ("--images", 30, "--workers", 0, "--device", "cpu")
    run("generate", "--store", "c.zarr", "--generator", "own", *grow)  # the store's own VAE goes without saying
    wrong = run("generate", "--store", "c.zarr", "--vae", "own", *grow, code=2)
    assert "generator_sha256" in wrong.stderr
    assert json.loads(run("inspect", "c.zarr", "--json").stdout)["images"] == 30


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--generator", "dit:nowhere.pt"), "There is no checkpoint"),
        (("--generator", "own", "--vae", "nowhere!"), "There is no folder 'nowhere!'"),
        (("--generator", "own", "--vae", "own/transformer"), "is DiTTransformer2DModel; dmkd knows"),
        (("--generator", "dit:mine.pt", "--vae", "own", "--class-names", "two.txt"), "has 2 names, and mine has 10"),
        (("--generator", "own", "--class-names", "two.txt"), "has classes of its own"),
        (("--generator", "text", "--vae", "own", "--class-names", "two.txt"), "--vae is for DiTs"),
    ],
)  # fmt: skip
def test_slips_are_one_sentence(tmp_path, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    save_tiny_dit("own")
    save_tiny_text_pipeline("text")
    (tmp_path / "two.txt").write_text("cat\ndog\n")
    save_as_training_does(tmp_path / "mine.pt", original_weights())
    said = " ".join(generate("s.zarr", *words, code=2).stderr.split())
    assert sentence in said
    assert not (tmp_path / "s.zarr").exists()


def test_a_plan_needs_neither_the_vae_nor_a_network(tmp_path):
    save_as_training_does(tmp_path / "mine.pt", original_weights())
    said = run("plan", "--generator", f"dit:{tmp_path / 'mine.pt'}", "--images", 1000, "--teacher", "none").stdout
    assert "GFLOP" in said and "10 classes" in said
