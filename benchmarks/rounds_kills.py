"""Kills `dmkd distil` at random moments of a loop of three rounds, until enough kills have hit. What is lost?

    python benchmarks/rounds_kills.py [--kills 20] [--seconds 20] [--seed 0] [--json]

The same command is started again after each kill, and at last left alone. Then every array of the store and the last student are
compared with those of a loop that nothing disturbed. ``lost``: arrays that differ or are not there; ``student``: whether the
weights are equal to the bit.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dmkd.stores import open_store

OPTIONS = (
    "--generator digits --steps 4 --guidance 1 --images 96 --rounds 3 --block-size 20 --sub-batch 8 --workers 0 --device cpu "
    "--candidates 2 --candidate-steps 2 --strength 0.1 --class-shares 0.5 --class-guidance 1:3 --agreement 0.6 "
    "--updates 12 --batch-size 16 --checkpoint-every 0.01"
)
MOST_STARTS = 300


def start(folder: Path) -> subprocess.Popen[str]:
    words = ["distil", "--store", str(folder / "s.zarr"), "--out", str(folder / "students"), *OPTIONS.split()]
    program = "import sys; from dmkd.cli.main import main; main(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def hashes(store_path: Path) -> dict[str, str]:
    """Of every chunk file of the store's arrays, and of the students that it keeps."""
    found = {}
    for node in open_store(str(store_path)).array_nodes():
        for file in sorted((store_path / node).glob("c.*")):
            found[f"{node}/{file.name}"] = hashlib.sha256(file.read_bytes()).hexdigest()
    for one in open_store(str(store_path)).rounds:
        found[one.node] = one.identity
        found[f"{one.node}/student"] = hashlib.sha256(one.student_weights()).hexdigest()
    return found


def student(folder: Path) -> str:
    return hashlib.sha256((folder / "students/student/student/model.safetensors").read_bytes()).hexdigest()


def run(kills: int, seconds: float, seed: int, folder: Path) -> dict[str, Any]:
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    process = start(undisturbed)
    process.communicate()
    assert process.returncode == 0
    rng, done, starts, failures = random.Random(seed), 0, 0, []
    while starts < MOST_STARTS:
        starts += 1
        process = start(killed)
        if done < kills:
            time.sleep(rng.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1]
        if process.returncode == -signal.SIGKILL:
            done += 1
            continue
        if process.returncode:
            failures.append(errors.strip().splitlines()[-1])
        elif done >= kills:
            break
        else:  # it came to its end between two kills: begin anew, so that the kills hit all stages
            assert hashes(killed / "s.zarr") == hashes(undisturbed / "s.zarr") and student(killed) == student(
                undisturbed
            )
            killed = folder / f"killed-{starts}"
            killed.mkdir()
    wanted, there = hashes(undisturbed / "s.zarr"), hashes(killed / "s.zarr")
    lost = [name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)]
    same = student(undisturbed) == student(killed)
    return {
        "kills": done,
        "starts": starts,
        "failures": failures,
        "chunks": len(wanted),
        "lost": len(lost),
        "student": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, from a start to its kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(options.kills, options.seconds, options.seed, Path(folder))
    if options.json:
        print(json.dumps(found))
    else:
        print(", ".join(f"{name} {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
