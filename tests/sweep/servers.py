"""Real servers for tests: PostgreSQL, and Optuna's gRPC proxy."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from optuna.storages import BaseStorage


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with an empty database on a socket of its own; its URL.

    The binaries are those of the `pgserver` wheel. PostgreSQL refuses to be root, and the wheel's own way around that
    adds a user to the system and changes the rights of folders: here the user that everybody has, `nobody`, runs it.
    """
    binaries = Path(find_spec("pgserver").origin).parent / "pginstall/bin"
    home = Path(tempfile.mkdtemp(prefix="npexp-pg-", dir="/tmp"))  # a socket's path must be short
    owner = {}
    if os.geteuid() == 0:
        shutil.chown(home, "nobody")
        owner = {"user": "nobody"}

    def execute(name: str, *words: str) -> None:
        command = [str(binaries / name), "-D", str(home / "data"), *words]
        with (home / "output").open("ab") as output:  # no pipe: the server would keep it open
            subprocess.run(command, stdout=output, stderr=output, cwd=home, timeout=120, check=True, **owner)

    try:
        execute("initdb", "--username=postgres", "--auth=trust", "--no-sync", "--encoding=utf8")
        execute("pg_ctl", "--wait", "-o", f"-h '' -k {home} -F", "-l", str(home / "log"), "start")
        yield f"postgresql://postgres@/postgres?host={home}"
        execute("pg_ctl", "--wait", "--mode=immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def grpc_proxy(storage: BaseStorage) -> Iterator[str]:
    """Optuna's proxy in front of a storage, in threads of this process; its URL."""
    import grpc
    from optuna.storages._grpc import servicer
    from optuna.storages._grpc.auto_generated import api_pb2_grpc

    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    api_pb2_grpc.add_StorageServiceServicer_to_server(servicer.OptunaStorageProxyService(storage), server)
    port = server.add_insecure_port("127.0.0.1:0")  # any that is free
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait(timeout=30)
