"""A real S3 server for tests: OpenStack Swift with its S3 API, all of it in one process, data in one folder.

Swift needs other libraries than dmkd (eventlet), so it runs in a virtual environment of its own, made on first use in
``build/swift-venv``. This file is also what runs there: keep its imports to the standard library.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
import venv
from pathlib import Path

ENVIRONMENT = Path(__file__).resolve().parent.parent / "build" / "swift-venv"
REQUIREMENT = "swift>=2.33"
ACCESS_KEY, SECRET_KEY = "test:tester", "testing"
START_SECONDS = 60

SERVERS = ("proxy", "account", "container", "object")

SWIFT_CONF = """
[swift-hash]
swift_hash_path_suffix = dmkd
swift_hash_path_prefix = dmkd
[storage-policy:0]
name = one-copy
default = yes
"""

# s3api checks the signature of each request against the keys that tempauth lists; slo is what multipart uploads become.
PROXY_CONF = """
[DEFAULT]
swift_dir = {root}
[pipeline:main]
pipeline = catch_errors s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

STORAGE_CONF = """
[DEFAULT]
swift_dir = {root}
devices = {root}
mount_check = false
disable_fallocate = true
[pipeline:main]
pipeline = {server}-server
[app:{server}-server]
use = egg:swift#{server}
"""


class SwiftUnavailable(RuntimeError):
    """Swift can't be installed, or can't keep its data here."""


class SwiftServer:
    """An S3 server at ``endpoint`` whose data lies in ``root`` and outlives it: start, kill and start again.

    ``environment`` is what a client needs. Its buckets are made by :meth:`make_bucket`, with boto3.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self._check_attributes()
        (self.root / "disk").mkdir(exist_ok=True)
        self.ports = dict(zip(SERVERS, _free_ports(len(SERVERS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['proxy']}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }
        self.process: subprocess.Popen[bytes] | None = None
        (self.root / "swift.conf").write_text(SWIFT_CONF)
        for server in SERVERS:
            text = PROXY_CONF if server == "proxy" else STORAGE_CONF
            (self.root / f"{server}.conf").write_text(text.format(root=self.root, server=server))

    def start(self) -> None:
        """Start it and wait until it answers."""
        python = _swift_python()
        ports = [f"{server}={port}" for server, port in self.ports.items()]
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen([python, __file__, self.root, *ports], stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise SwiftUnavailable(f"Swift did not start: {(self.root / 'log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def make_bucket(self, name: str) -> str:
        """``s3://name``"""
        import boto3

        boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        ).create_bucket(Bucket=name)
        return f"s3://{name}"

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.endpoint, timeout=5)
        except urllib.error.HTTPError:  # 403 is an answer
            return True
        except OSError:
            return False
        return True

    def _check_attributes(self) -> None:
        """Swift keeps metadata in extended attributes of its files."""
        try:
            os.setxattr(self.root, "user.dmkd", b"x" * 1000)
        except (OSError, AttributeError) as error:
            raise SwiftUnavailable(f"{self.root} takes no extended attributes: {error}") from error


def _swift_python() -> Path:
    """Python of Swift's virtual environment, which is made if it is not there yet."""
    python, ready = ENVIRONMENT / "bin" / "python", ENVIRONMENT / "ready"
    if not ready.exists():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        venv.create(ENVIRONMENT, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", REQUIREMENT], capture_output=True, text=True)
        if done.returncode:
            raise SwiftUnavailable(f"pip install {REQUIREMENT} failed: {done.stderr.strip()[-500:]}")
        ready.touch()
    return python


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


# Below: what runs in Swift's environment


def serve(root: Path, ports: dict[str, int]) -> None:
    """Run proxy, account, container and object server as green threads of this process; never returns."""
    import eventlet
    import eventlet.wsgi
    from swift.common import utils
    from swift.common.ring import RingBuilder
    from swift.common.storage_policy import reload_storage_policies
    from swift.common.wsgi import NullLogger, SwiftHttpProtocol, get_hub, loadapp

    eventlet.hubs.use_hub(get_hub())
    utils.monkey_patch()
    utils.set_swift_dir(str(root))
    utils.validate_hash_conf()
    reload_storage_policies()
    for server in SERVERS[1:]:
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
        where = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": ports[server], "device": "disk", "weight": 1}
        builder.add_dev(
            {"id": 0, "meta": "", "replication_ip": "127.0.0.1", "replication_port": ports[server], **where}
        )
        builder.rebalance()
        builder.get_ring().save(str(root / f"{server}.ring.gz"))

    def run(server: str) -> None:
        try:
            app = loadapp(str(root / f"{server}.conf"), global_conf={"log_name": server, "log_level": "ERROR"})
            listening = eventlet.listen(("127.0.0.1", ports[server]))
            # S3 clients want "ETag", not "Etag".
            eventlet.wsgi.server(
                listening, app, NullLogger(), protocol=SwiftHttpProtocol, capitalize_response_headers=False
            )
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    for thread in [eventlet.spawn(run, server) for server in reversed(SERVERS)]:
        thread.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), {server: int(port) for server, port in (word.split("=") for word in sys.argv[2:])})
