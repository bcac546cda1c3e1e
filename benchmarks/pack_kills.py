"""Kills what packs and what shares a cache, again and again; for faults.py. What is lost?

- pack: `dmkd pack` in place, into a copy, and into a bucket of OpenStack Swift: shards of eight blocks. After each kill all
  that the store held is read; a copy that is not finished must not be taken for a store.
- generate: a store that is packed while it is made, in shards of four blocks.
- train: two students at once that learn from a compressed store by way of one cache.

``lost``: arrays that could not be read, or held something else, after a kill or at the end; students that differ.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corruptions import everything, make_store

from dmkd.stores import DmkdError, Store, open_store
from dmkd.stores.packing import is_packed
from dmkd.stores.verifying.verifier import Verifier

MOST_STARTS = 200

BEGIN = "import sys; from dmkd.stores.trees import shards, zarr_tree; "
EIGHT_A_SHARD = BEGIN + "shards.choose_blocks_per_shard = lambda chunk_bytes, blocks: 8; "
PACKED_FROM_THE_START = (
    BEGIN
    + "zarr_tree.MOST_LOOSE_BLOCKS = shards.MOST_BLOCKS = 4; from dmkd.stores import packing; packing.FOLD_EVERY = 1; "
)
COMMAND = "from dmkd.cli.main import main; print('go', flush=True); main(sys.argv[1:])"


def start(program: str, *words: object) -> subprocess.Popen[str]:
    """`dmkd` with these words, once it is about to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", program + COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill_until_done(
    commands: Sequence[Callable[[], subprocess.Popen[str]]],
    kills: int,
    seconds: float,
    rng: random.Random,
    look: Callable[[], int],
) -> dict[str, Any]:
    """Start the commands together and kill them within ``seconds``, until so many ``kills`` have hit; then let them end. ``look``
    counts what is lost."""
    done, starts, lost, failures = 0, 0, 0, []
    while starts < MOST_STARTS:
        last, starts = done >= kills, starts + 1
        processes = [command() for command in commands]
        if not last:
            time.sleep(rng.uniform(0, seconds))
            for process in processes:
                process.send_signal(signal.SIGKILL)
        for process in processes:
            errors = process.communicate()[1]
            if process.returncode == -signal.SIGKILL:
                done += 1
            elif process.returncode:
                failures.append(errors.strip().splitlines()[-1])
        lost += look()
        if last and not failures:
            break
        if all(process.returncode == 0 for process in processes):
            break
    return {"kills": done, "starts": starts, "lost": lost, "failures": failures}


def run_packing(folder: Path, kills: int, seed: int, bucket: str | None) -> dict[str, dict[str, Any]]:
    """Of `dmkd pack`: by what it was told to do."""
    rng, source = random.Random(seed), make_store(folder / "source.zarr", seed, num_images=800)
    wanted = everything(source)
    places = {"in place": folder / "s.zarr", "copy": folder / "copy.zarr", "Swift": bucket and f"{bucket}/copy.zarr"}
    found = {}
    for how, place in places.items():
        if place is None:
            continue
        if how == "in place":
            shutil.copytree(source.path, place)
        words = ["pack", place] if how == "in place" else ["pack", source.path, place]

        def look(how: str = how, place: Path | str = place) -> int:
            lost = _lost(source, wanted)
            try:
                there = open_store(str(place))
            except DmkdError:
                return lost + (how == "in place")
            return lost + _lost(there, wanted)

        command = [lambda w=words: start(EIGHT_A_SHARD, *w)]  # type: ignore[misc]
        row = kill_until_done(command, kills, 3.0 if how == "Swift" else 0.4, rng, look)
        finished = open_store(str(place))
        print(f"pack, {how}: {row}", file=sys.stderr)
        found[f"pack, {how}"] = row | {"packed": is_packed(finished), "partials": finished.chunks.tree.count_partials()}
    return found


def run_generate(folder: Path, kills: int, seed: int) -> dict[str, dict[str, Any]]:
    words = ["--generator", "digits", "--images", 480, "--steps", 2, "--block-size", 8, "--workers", 0, "--store"]
    for_comparison = folder / "loose.zarr"
    _ended(start(BEGIN, "generate", *words, for_comparison))
    wanted, path = everything(open_store(str(for_comparison))), folder / "made.zarr"

    def look() -> int:
        """What is there must be sound; what is not there is made again."""
        if not path.exists():
            return 0
        try:
            store = open_store(str(path))
        except DmkdError:
            return 0  # killed before it was one
        verifier = Verifier(store)
        return sum(
            finding.severity == "error" for block in range(store.num_blocks) for finding in verifier.block(block)
        )

    command = [lambda: start(PACKED_FROM_THE_START, "generate", *words, path)]
    row = kill_until_done(command, kills, 3.0, random.Random(seed), look)
    store = open_store(str(path))
    row["lost"] += _lost(store, wanted)
    return {"generate": row | {"packed": is_packed(store), "partials": store.chunks.tree.count_partials()}}


def run_training(folder: Path, kills: int, seed: int) -> dict[str, dict[str, Any]]:
    store = folder / "compressed.zarr"
    # fmt: off
    _ended(start(BEGIN, "generate", "--generator", "digits", "--images", 480, "--steps", 2, "--block-size", 16,
                 "--image-codec", "webp", "--workers", 0, "--store", store))
    words = ["train-student", "--store", store, "--student", "test_resnet", "--epochs", 3, "--batch-size", 16, "--device", "cpu",
             "--memory", 0.002]
    # fmt: on
    _ended(start(BEGIN, *words, "--out", folder / "alone"))
    cached = [*words, "--cache", folder / "cache", "--out"]
    commands = [lambda n=n: start(BEGIN, *cached, folder / f"run{n}") for n in range(2)]  # type: ignore[misc]
    row = kill_until_done(commands, kills, 6.0, random.Random(seed), lambda: 0)
    weights = [(folder / run / "student/model.safetensors").read_bytes() for run in ("alone", "run0", "run1")]
    row["lost"] += sum(other != weights[0] for other in weights)
    return {"train": row}


def _ended(process: subprocess.Popen[str]) -> None:
    errors = process.communicate()[1]
    assert process.returncode == 0, errors


def _lost(store: Store, wanted: list[bytes]) -> int:
    try:
        return sum(found != expected for found, expected in zip(everything(store), wanted, strict=True))
    except DmkdError:
        return len(wanted)


def run(folder: Path, kills: int, seed: int, quick: bool) -> dict[str, dict[str, Any]]:
    """All of it; ``quick``: only `dmkd pack`, without a server."""
    folder.mkdir()
    if quick:
        return run_packing(folder, kills, seed, None)
    bucket, server = None, None
    try:
        import boto3  # noqa: F401
        from swift_server import SwiftServer, SwiftUnavailable

        server = SwiftServer(folder / "swift")
        server.start()
        os.environ |= server.environment
        bucket = server.make_bucket("packed")
    except (ImportError, SwiftUnavailable) as error:
        print(f"Without Swift: {error}")
    try:
        found = run_packing(folder, kills, seed, bucket)
    finally:
        if server:
            server.stop()
    return found | run_generate(folder, kills // 2, seed) | run_training(folder, kills // 2, seed)
