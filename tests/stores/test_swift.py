"""Every command against a real S3 server, OpenStack Swift: signatures are checked, data is on disk, and it gets killed."""

import json
import os
import subprocess
import sys
import time

import pytest
from places import BucketPrefix, Folder
from swift_server import SwiftServer, SwiftUnavailable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    try:
        server = SwiftServer(tmp_path_factory.mktemp("swift"))
        server.start()
    except SwiftUnavailable as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.make_bucket("dmkd")
        yield server
    server.stop()


def start(*arguments, **environment):
    command = [sys.executable, "-m", "dmkd.cli.main", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def dmkd(*arguments, **environment):
    process = start(*arguments, **environment)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def generate(path, generator, teacher):
    # fmt: off
    return ["generate", "--store", path, "--generator", generator, "--teacher", teacher, "--images", 96,
            "--block-size", 4, "--steps", 4, "--sampler", "ddpm", "--views", "rrc:2", "--device", "cpu"]
    # fmt: on


@pytest.fixture(scope="module")
def finished_locally(tmp_path_factory, tiny_generator, tiny_teacher):
    path = tmp_path_factory.mktemp("local") / "s.zarr"
    code, _, errors = dmkd(*generate(path, tiny_generator, tiny_teacher))
    assert code == 0, errors
    return Folder(path)


@pytest.mark.parametrize("more", [(), ("--workers", 2)], ids=["one process", "Ray"])
def test_a_run_outlives_its_server_and_the_store_equals_a_local_one(
    server, finished_locally, tiny_generator, tiny_teacher, tmp_path, more
):
    place = BucketPrefix(f"s3://dmkd/{tmp_path.name}/s.zarr")
    run = start(*generate(place.path, tiny_generator, tiny_teacher), *more)
    deadline = time.monotonic() + 120
    while run.poll() is None and len(place.chunks()) < 12 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.poll() is None, run.communicate()[1]
    server.kill()
    time.sleep(8)
    server.start()
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert place.chunks() == finished_locally.chunks()


def test_every_command_on_a_server_named_by_its_endpoint(
    server, finished_locally, tiny_generator, tiny_teacher, other_teacher, tmp_path
):
    path = f"s3://dmkd/{tmp_path.name}/s.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_ENDPOINT_URL")
        # fmt: off
        for arguments in (
            generate(path, tiny_generator, tiny_teacher),
            ["label", "--store", path, "--teacher", other_teacher, "--device", "cpu"],
            ["train-student", "--store", path, "--labels", "tiny-resnet", "--epochs", 1, "--batch-size", 32,
             "--student", "test_resnet", "--out", tmp_path / "run", "--device", "cpu"],
            ["evaluate", tmp_path / "run" / "student", "--data", path, "--device", "cpu"],
            ["inspect", path, "--json"],
            ["verify", path, "--rerun-teacher", 0.1, "--regenerate", 0.1, "--device", "cpu"],
        ):
            code, output, errors = dmkd(*arguments, "--endpoint-url", server.endpoint)
            assert code == 0, (arguments[0], errors, output)
            if arguments[0] == "inspect":
                facts = json.loads(output)
                assert facts["complete"] and sorted(facts["label_sets"]) == ["tiny-efficientnet", "tiny-resnet"]
        # fmt: on


@pytest.mark.parametrize("environment", [{"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ACCESS_KEY_ID": "test:nobody"}])
def test_wrong_credentials_are_refused_in_one_sentence(server, environment):
    before = time.monotonic()
    code, output, errors = dmkd("inspect", "s3://dmkd/s.zarr", **environment)
    assert (code, output) == (1, "") and len(errors.splitlines()) == 1, errors
    assert "access is denied (SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in errors
    assert time.monotonic() - before < 20
