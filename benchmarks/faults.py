"""Kills `dmkd generate` again and again, fills its disk, takes its S3 server away, corrupts a store: what is lost?

    python benchmarks/faults.py [--json] [--quick] [--seed N]

- kills: the command with three Ray workers; 40 times SIGKILL hits one of its processes, at random (seeded) moments: an
  actor, one of Ray's helpers, Ray's control server (gcs), the raylet, or the command itself. Whenever the command ends
  without success, it is restarted at once, until the store is finished. Any kills left then hit another store.
- full disk: the same on a disk that holds half of the store (a tmpfs of that size; without permission to mount, in one process
  with a limit on file sizes). Then the disk is enlarged, and the same command restarted.
- S3 server: the same into a bucket of OpenStack Swift, which is killed after a third of the blocks and restarted 8 seconds later.
- packed: 16 kills each of `dmkd pack` in place, into a copy and into a bucket; 8 of a run that packs as it goes, and of two
  students that share a cache (benchmarks/pack_kills.py).
- corruptions: 200 each in a store, in a packed store, in a cache (benchmarks/corruptions.py): found by `dmkd verify`, read as
  good.

Each store is then compared with an undisturbed run's. ``missing``: an array has no chunk of a block. ``duplicated``: an array
has more than one chunk of a block, or one of a block that does not exist; a half-written file (.partial) is left; two image
ids have the same pixels. ``hashes_equal``: the same chunks, each with the same sha256. Models are tiny and random. Linux only.

All of it took 10 minutes on two shared cores. --quick: four kills, 40 corruptions, neither full disk nor S3.
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import corruptions
import pack_kills

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests")]  # dmkd's command line; the tests' tiny models, and their S3 server

WORKERS = 3
BLOCK_SIZE = 8
POLL_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 0.3
MOST_STORES = 10
STALL_SECONDS = 200  # without a new chunk: the command hangs
PATIENCE_SECONDS = 30  # for what a killed command leaves running to end by itself
SERVER_AWAY_SECONDS = 8
PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
CHUNK = re.compile(r"(.+)/c\.(\d+)(?:\.0)*")  # array, block

TARGETS: dict[str, Callable[[str], bool]] = {  # target -> whether a process with this title is one
    "actor": lambda title: title.startswith("ray::RayBlockWorker"),
    "helper": lambda title: title.startswith("ray::") and not title.startswith("ray::RayBlockWorker"),
    "gcs": lambda title: "/gcs_server" in title.split(" ")[0],
    "raylet": lambda title: title.split(" ")[0].endswith("/raylet"),
    "command": lambda title: "dmkd.cli.main generate" in title,
}


@dataclass(frozen=True)
class Scale:
    """How much to do."""

    blocks: int
    steps: int
    kills: dict[str, int]  # target -> how many
    corruptions: int
    kills_of_pack: int


FULL = Scale(72, 12, {"actor": 26, "helper": 3, "gcs": 1, "raylet": 4, "command": 6}, 200, 16)
QUICK = Scale(48, 4, {"actor": 3, "command": 1}, 40, 4)


# The processes that this one has started


def adopt_orphans() -> None:
    """From now on a process whose parent was killed becomes a child of this one, so that none is ever lost."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants(root: int) -> dict[int, str]:
    """Living processes below ``root``: pid -> command line, or what the process calls itself."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
    found, unseen = {}, children.get(root, [])
    while unseen:
        pid = unseen.pop()
        unseen += children.get(pid, [])
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def end_leftovers(spared: Sequence[int] = ()) -> int:
    """Kill what killed commands left running -> how many of these were actors and commands, which may write and had not ended
    by themselves. Ray's agents take a minute. ``spared`` are other children of this process."""

    def leftovers() -> dict[int, str]:
        return {pid: title for pid, title in descendants(os.getpid()).items() if pid not in spared}

    def writers() -> list[int]:
        return [pid for pid, title in leftovers().items() if TARGETS["actor"](title) or TARGETS["command"](title)]

    wait_until(lambda: not writers(), PATIENCE_SECONDS)
    remaining = len(writers())
    for pid in leftovers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not leftovers(), PATIENCE_SECONDS)
    return remaining


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


# The command


@dataclass(frozen=True)
class End:
    """An end without success: exit code, what was killed (or full) since the command was started, its last line."""

    code: int
    killed: tuple[str, ...]
    last_line: str

    @property
    def unexpected(self) -> bool:
        """Whether it should have kept running: it survives its actors, and an absent S3 server."""
        return set(self.killed) <= {"actor"}


class Command:
    """`dmkd generate`, restarted at once whenever it ends without success."""

    def __init__(self, models: Path, place: Any, scale: Scale, log: Path, workers: int = WORKERS) -> None:
        self.place, self.log = place, log
        self.words = [sys.executable, "-m", "dmkd.cli.main", *arguments(models, place.path, scale, workers)]
        self.starts = self.stalls = 0
        self.killed: list[str] = []  # since the last start
        self.ends: list[End] = []
        self.start()

    def start(self) -> None:
        self.starts, self.killed = self.starts + 1, []
        self._blocks, self._changed_at = -1, time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL, stderr=log, env=environment())

    def running(self) -> bool:
        """Whether it is still at work; False once it has ended with success."""
        if self.process.poll() is None:
            self._end_if_stalled()
            return True
        if self.process.returncode == 0:
            return False
        self.ends.append(End(self.process.returncode, tuple(self.killed), last_line(self.log)))
        self.start()
        return True

    def blocks_done(self) -> int:
        return blocks_done(self.place)

    def kill(self, target: str, pid: int) -> None:
        self.killed.append(target)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: pid not in descendants(os.getpid()), PATIENCE_SECONDS)

    def processes(self, target: str) -> list[int]:
        """Its living processes of this kind; not those left behind by an earlier start."""
        living = descendants(os.getpid())
        below = [self.process.pid, *descendants(self.process.pid)]
        return sorted(pid for pid in below if pid in living and TARGETS[target](living[pid]))

    def _end_if_stalled(self) -> None:
        if (blocks := self.blocks_done()) != self._blocks:
            self._blocks, self._changed_at = blocks, time.monotonic()
        elif time.monotonic() - self._changed_at > STALL_SECONDS:
            self.stalls += 1
            self.process.kill()
            self.process.wait()


def arguments(models: Path, store: str, scale: Scale, workers: int) -> list[str]:
    # fmt: off
    words = ["generate", "--store", store, "--generator", models / "generator", "--teacher", models / "teacher",
             "--images", scale.blocks * BLOCK_SIZE, "--block-size", BLOCK_SIZE, "--steps", scale.steps, "--sampler", "ddpm",
             "--views", "rrc:2", "--device", "cpu", "--workers", workers]
    # fmt: on
    return [str(word) for word in words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def make_models(folder: Path) -> Path:
    from conftest import make_teacher
    from tiny_models import save_tiny_dit

    save_tiny_dit(folder / "generator", num_classes=10)
    make_teacher(folder / "teacher")
    return folder


def undisturbed_run(models: Path, path: Path, scale: Scale) -> Any:
    """The same command in this process, without Ray."""
    from places import Folder

    from dmkd.cli.main import main

    with contextlib.redirect_stdout(open(os.devnull, "w")), contextlib.redirect_stderr(open(os.devnull, "w")):
        main(arguments(models, str(path), scale, workers=0), standalone_mode=False)
    return Folder(path)


# Kills


@dataclass(frozen=True)
class Kill:
    """SIGKILL for a process of kind ``target``, ``delay`` seconds after ``after_blocks`` blocks are there."""

    target: str
    after_blocks: int
    delay: float
    which: float  # which of several such processes, as a fraction


def planned_kills(scale: Scale, seed: int) -> list[Kill]:
    """Moments over the first half of the work, so that there is something left to do after each."""
    rng = random.Random(seed)
    targets = [target for target, count in scale.kills.items() for _ in range(count)]
    rng.shuffle(targets)
    moments = sorted(rng.randrange(scale.blocks // 2) for _ in targets)
    return [
        Kill(*pair, rng.uniform(0, LONGEST_DELAY_SECONDS), rng.random()) for pair in zip(targets, moments, strict=True)
    ]


def carry_out(kill: Kill, command: Command) -> bool:
    """Wait for the moment and the process, and kill it; False if the command finishes first."""
    while command.running():
        if command.blocks_done() >= kill.after_blocks and command.processes(kill.target):
            time.sleep(kill.delay)
            if pids := command.processes(kill.target):
                command.kill(kill.target, pids[int(kill.which * len(pids))])
                return True
        time.sleep(POLL_SECONDS)
    return False


def run_with_kills(
    models: Path, folder: Path, scale: Scale, seed: int, undisturbed: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """If a store is finished before all kills were carried out (on a fast machine), the rest hit another store."""
    from places import Folder

    kills = planned_kills(scale, seed)
    for number in range(MOST_STORES):
        command = Command(models, Folder(folder / f"killed{number}.zarr"), scale, folder / f"killed{number}.log")
        killed: Counter[str] = Counter()
        while kills and carry_out(kills[0], command):
            killed[kills.pop(0).target] += 1
        finish(command)
        how = ", ".join(f"{count} {target}" for target, count in killed.items())
        yield (
            f"kills {number}",
            {"how": how, "kills": killed.total(), "by_target": killed, **report(command, undisturbed)},
        )
        if not kills:
            return


def finish(command: Command) -> None:
    while command.running():
        time.sleep(POLL_SECONDS)


# A full disk


def run_on_full_disk(models: Path, folder: Path, scale: Scale, undisturbed: Any) -> dict[str, Any]:
    from places import Folder

    size = sum(map(len, undisturbed.chunks().values()))
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", folder], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return run_with_size_limit(models, folder, scale, undisturbed)
    try:
        place = Folder(folder / "s.zarr")
        command = Command(models, place, scale, folder.with_suffix(".log"))
        wait_for_the_end(command)
        subprocess.run(["mount", "-o", f"remount,size={size * 8}", folder], check=True)
        finish(command)
        return {"how": "tmpfs", **report(command, undisturbed)}
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def run_with_size_limit(models: Path, folder: Path, scale: Scale, undisturbed: Any) -> dict[str, Any]:
    """Image files are too large at first. In one process, because Ray's own files would be too large as well."""
    from places import Folder

    image_chunks = [len(chunk) for name, chunk in undisturbed.chunks().items() if name.startswith("images/")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(image_chunks) // 2, before[1]))  # the command inherits it
    command = Command(models, Folder(folder / "s.zarr"), scale, folder.with_suffix(".log"), workers=0)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    wait_for_the_end(command)
    finish(command)
    return {"how": "file size limit", **report(command, undisturbed)}


def wait_for_the_end(command: Command) -> None:
    """Wait until it has noticed that its disk is full."""
    wait_until(lambda: command.process.poll() is not None, STALL_SECONDS)
    command.killed.append("disk")


# An S3 server that goes away


def run_on_s3(models: Path, folder: Path, scale: Scale, undisturbed: Any) -> dict[str, Any]:
    try:
        import boto3  # noqa: F401
        from places import BucketPrefix
        from swift_server import SwiftServer, SwiftUnavailable

        server = SwiftServer(folder)
        server.start()
    except (ImportError, SwiftUnavailable) as error:
        return {"how": f"skipped: {error}"}
    try:
        os.environ |= server.environment
        command = Command(models, BucketPrefix(f"{server.make_bucket('faults')}/s.zarr"), scale, folder / "command.log")
        while command.running() and command.blocks_done() < scale.blocks // 3:
            time.sleep(POLL_SECONDS)
        server.kill()
        time.sleep(SERVER_AWAY_SECONDS)
        server.start()
        finish(command)
        assert server.process is not None
        return {"how": "Swift", **report(command, undisturbed, spared=[server.process.pid])}
    finally:
        server.stop()


# What is left


def blocks_done(place: Any) -> int:
    try:
        return sum(CHUNK.fullmatch(name) is not None for name in place.names() if name.startswith("images/"))
    except FileNotFoundError:  # a folder was replaced while it was read
        return 0


def report(command: Command, undisturbed: Any, spared: Sequence[int] = ()) -> dict[str, Any]:
    """What a finished command has left behind."""
    return {
        "starts": command.starts,
        "stalls": command.stalls,
        "unexpected_ends": sum(end.unexpected for end in command.ends),
        "ends": [asdict(end) for end in command.ends],
        "leftovers": end_leftovers(spared),
        **compare(command.place, undisturbed),
    }


def compare(place: Any, undisturbed: Any) -> dict[str, Any]:
    """What is missing, duplicated or different; nothing for an undisturbed run's store itself."""
    from dmkd.stores import open_store

    store, names = open_store(place.path), place.names()
    arrays = [name.removesuffix("/zarr.json") for name in names if is_array(place, name)]
    blocks: dict[str, list[int]] = {array: [] for array in arrays}
    for name in names:
        if (match := CHUNK.fullmatch(name)) and match[1] in blocks:
            blocks[match[1]].append(int(match[2]))
    expected = set(range(store.num_blocks))
    pixels = {hashlib.sha256(image.tobytes()).digest() for image in store.images[:]}
    return {
        "blocks": store.num_blocks,
        "missing": sum(len(expected - set(numbers)) for numbers in blocks.values()),
        "duplicated": sum(len(numbers) - len(expected & set(numbers)) for numbers in blocks.values())
        + sum(name.endswith(".partial") for name in names)
        + (store.num_images - len(pixels)),
        "partials": sum(name.endswith(".partial") for name in names),
        "hashes_equal": hashes(place) == hashes(undisturbed),
        "chunks": len(hashes(place)),
    }


def is_array(place: Any, name: str) -> bool:
    """Whether this is the zarr.json of an array of blocks."""
    return (
        name.endswith("/zarr.json")
        and "/constants/" not in name
        and json.loads(place.read(name)).get("node_type") == "array"
    )


def hashes(place: Any) -> dict[str, str]:
    """sha256 of every chunk, by name."""
    return {name: hashlib.sha256(chunk).hexdigest() for name, chunk in place.chunks().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="last line: one JSON object")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the corruptions")
    options = parser.parse_args()
    scale, start = QUICK if options.quick else FULL, time.monotonic()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left running
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="dmkd-faults-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", "RAY_TMPDIR": name}
        damaged = corruptions.measure(scale.corruptions, options.seed)
        packing = pack_kills.run(folder / "packing", scale.kills_of_pack, options.seed, options.quick)
        models = make_models(folder / "models")
        undisturbed = undisturbed_run(models, folder / "undisturbed.zarr", scale)
        try:
            runs = dict(run_with_kills(models, folder, scale, options.seed, undisturbed))
            if not options.quick:
                runs["full disk"] = run_on_full_disk(models, folder / "disk", scale, undisturbed)
                runs["S3 server"] = run_on_s3(models, folder / "swift", scale, undisturbed)
        finally:
            end_leftovers()
    facts = {"seconds": round(time.monotonic() - start), "runs": runs, "kills_of_packing": packing}
    result = summary(runs) | damaged | facts
    print_tables(result)
    if options.json:
        print(json.dumps(result))


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Over all runs that were made."""
    made = [run for run in runs.values() if "blocks" in run]
    counts = ("missing", "duplicated", "starts", "stalls", "unexpected_ends", "leftovers")
    return {
        "kills": sum(run.get("kills", 0) for run in made),
        **{key: sum(run[key] for run in made) for key in counts},
        "hashes_equal": all(run["hashes_equal"] for run in made),
    }


def print_tables(result: dict[str, Any]) -> None:
    columns = [
        "starts",
        "blocks",
        "chunks",
        "missing",
        "duplicated",
        "hashes_equal",
        "unexpected_ends",
        "stalls",
        "leftovers",
    ]
    print(" " * 61 + "  ".join(columns).replace("_", " "))
    for name, run in result["runs"].items():
        cells = "  ".join(f"{run[column]!s:>{len(column)}}" for column in columns) if "blocks" in run else ""
        print(f"{name:11}{run['how']:<50}{cells}")
    print("\nEnds without success (exit code; killed since the start; last line):")
    for name, run in result["runs"].items():
        for end in run.get("ends", []):
            print(f"  {name}: {end['code']}; {', '.join(end['killed']) or 'nothing'}; {end['last_line']}")
    for name, row in result["kills_of_packing"].items():
        print(f"{name:16}{', '.join(f'{key}: {value}' for key, value in row.items())}")
    print(f"\n{result['corruptions']} corruptions: {result['found']} found, {result['read_as_good']} read as good")
    print(f"{result['seconds']} s")


if __name__ == "__main__":
    main()
