"""Runs every command once in the current folder, on a small store of digits: ``python every_command.py``.

A script and not a test: ``test_lowest_versions.py`` runs it with another Python, whose libraries are of other versions.
One process, since importing the libraries takes longer than most of the commands. Stops at the first that fails.
"""
# ruff: noqa: E402

import json
import os
import subprocess
import sys
from urllib.request import urlopen

from hub_server import TOKEN, HubServer

HUB = HubServer()  # before huggingface_hub is imported: it reads the environment once
os.environ.update(HF_ENDPOINT=HUB.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
os.environ.update(WANDB_MODE="offline", MLFLOW_ALLOW_FILE_STORE="true", MLFLOW_TRACKING_URI="file:./mlruns")

from torch.utils.data import DataLoader

import dmkd
from dmkd.cli.main import main
from dmkd.datasets import StoreDataset

CODECS = ("float16", "uint8", "features", "klt:0.5", "topk:5")
COMMANDS = [
    "plan --store s.zarr --generator digits --images 64",
    "generate --store s.zarr --generator digits --images 64 --steps 4 --views rrc:2+cutmix --block-size 32",
    *(f"label --store s.zarr --teacher digits-resnet --codec {codec} --name {codec.split(':')[0]}" for codec in CODECS),
    "teachers",
    "select entropy<99 --store s.zarr --labels digits-resnet --save all",
    "columns --store s.zarr",
    "inspect s.zarr",
    "verify s.zarr --rerun-teacher 1 --regenerate 1",
    "view s.zarr --out sheet.png",
    "view s.zarr --image 7 --out image.png",
    "card s.zarr",
    "codec-report --store s.zarr --teacher digits-resnet",
    "export s.zarr --to images --format imagefolder",
    "export s.zarr --to shards --format webdataset",
    "export s.zarr --to parquet --format parquet",
    "tag s.zarr v1",
    "verify s.zarr --tag v1",
    "convert s.zarr s.h5",
    "verify s.h5 --rerun-teacher 1",
    "verify s.h5 --tag v1",
    "convert s.h5 back.zarr",
    "verify back.zarr",
    "import images --store imported.zarr --size 32 --teacher digits-resnet",
    "train-student --store s.zarr --labels digits-resnet --select @all --epochs 1 --batch-size 16 --out run --val digits",
    "train-student --store s.h5 --labels klt,topk --epochs 1 --batch-size 16 --out mixed --amp bfloat16 --log wandb --log mlflow",
    "train-student --store s.zarr --labels digits-resnet --tag v1 --epochs 1 --batch-size 16 --out tagged",
    "train-student --store s.zarr=2 --store imported.zarr --labels features,imported.zarr: --epochs 1 --batch-size 16 --out two",
    "export-student run --to model --onnx",
    "evaluate model --data digits",
    "push s.zarr hf://datasets/user/digits --create --tag v1",
    "inspect hf://datasets/user/digits",
    "train-student --store hf://datasets/user/digits@v1 --labels uint8 --epochs 1 --batch-size 16 --out from-the-hub",
    "pull hf://datasets/user/digits@v1",
    "verify digits.zarr",
    "push run hf://user/student --private",
    "compare s.zarr --labels features --labels hard --seeds 2 --updates 4 --images 32 --val digits --out compared",
    "generate --store dpm.zarr --generator digits --images 32 --teacher none --steps 4 --sampler dpm++ --image-codec webp",
    "generate --store ray.zarr --generator digits --images 32 --steps 4 --sampler unipc --image-codec jpeg:90 --workers 1",
    "generate --store back.zarr --follow run --images 96 --candidates 2 --candidate-steps 2 --strength 0.1 --class-shares 0.5",
    "verify back.zarr --regenerate 1",
    "inspect back.zarr",
    "train-student --store back.zarr --labels digits-resnet --select round==1 --start-from run --updates 4 --batch-size 16",
    "distil --store rounds.zarr --generator digits --images 48 --rounds 2 --steps 4 --block-size 16 --candidates 2 --updates 4 "
    "--batch-size 16 --warm --val digits",
]


def run(command: str) -> None:
    print(f"\n$ dmkd {command}", flush=True)
    assert not main(command.split(), prog_name="dmkd", standalone_mode=False), command  # the exit code, if any


def read() -> None:
    """The store through each way that Python has to it."""
    store = dmkd.open_store("s.zarr")
    for name, labels in store.labels.items():
        for batch in dmkd.loader("s.zarr", labels=name, batch_size=16):
            assert batch.pixels().shape[0] == 16 and batch.logits(10).shape == (16, 10)
        assert len(labels.quality_table()) == 64
    for workers in (0, 1):
        assert len(list(DataLoader(StoreDataset("s.zarr", "float16"), batch_size=16, num_workers=workers))) == 4
    assert store.to_xarray()["labels/float16/logits"][:4].values.shape == (4, 3, 10)
    assert store.show([1, 2]).mode == "RGB" and "<" in store._repr_html_()


def look() -> None:
    """The page, from a process of its own since it serves until it is ended, and as a widget."""
    command = [sys.executable, "-m", "dmkd.cli.main", "browse", "s.zarr", "--no-open", "--json"]
    print(f"\n$ {' '.join(command[2:])}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        for question in (
            "",
            "main.js",
            "ask/stores",
            "ask/image?id=7",
            "ask/views?id=7&view_set=rrc2-cutmix",
            "ask/runs",
        ):
            with urlopen(address + question) as answer:
                assert answer.status == 200 and answer.read(), question
        server.terminate()
    assert "widget" in dmkd.open_store("s.zarr").browse()._esm


if __name__ == "__main__":
    for command in COMMANDS:
        run(command)
    read()
    look()
