"""Where studies are kept: a file on one machine, or a server or a shared disk that several machines reach."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from npexp.errors import ConfigError, NPError, StorageError
from npexp.sweep.stale import GRACE, INTERVAL, requeue

KINDS = "sqlite:///FILE, postgresql://USER@HOST/DATABASE, journal:FILE or grpc://HOST:PORT"
PATIENCE = 10  # seconds until a server that does not answer counts as unreachable
LOCKED = 60  # seconds that a process waits for others to finish writing to a SQLite file


class Unreachable(StorageError):
    """A storage that cannot be reached, read or written."""


def default_url(runs_dir: str | Path, study: str) -> str:
    """The storage of a study that names none: a SQLite file beside its trials."""
    return f"sqlite:///{Path(runs_dir).resolve() / study / 'study.db'}"


def open_storage(url: str) -> BaseStorage:
    """Opens a storage, and makes what can be made of it.

    Args:
        url: one of `KINDS`; with a plain postgresql:// psycopg is the driver.

    Raises:
        ConfigError: another kind, or its driver is not installed.
        Unreachable: it cannot be reached.
    """
    kind, _, place = url.partition(":")
    with reaching(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats and the proxy; versions are pinned
        if kind == "journal" and place:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(place, lock_obj=JournalFileOpenLock(place)))
        if found := re.fullmatch(r"grpc://([^:/]+):(\d+)", url):
            proxy = GrpcStorageProxy(host=found[1], port=int(found[2]))
            proxy.wait_server_ready(timeout=PATIENCE)
            return proxy
        if kind == "sqlite" and place.startswith("///"):
            Path(place[3:]).parent.mkdir(parents=True, exist_ok=True)
            connect = {"timeout": LOCKED}
        elif re.fullmatch(r"postgres(ql)?(\+psycopg)?", kind):
            url, connect = f"postgresql+psycopg:{place}", {"connect_timeout": PATIENCE}
        else:
            raise ConfigError(f"expected --storage to be {KINDS}, got '{hidden(url)}'")
        storage = RDBStorage(
            url,
            engine_kwargs={"connect_args": connect, "poolclass": NullPool},  # servers have few connections to give
            heartbeat_interval=INTERVAL,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=requeue,
        )
        if kind == "sqlite":
            _lock_first(storage.engine)
        return storage


def has_heartbeat(url: str) -> bool:
    """Whether Optuna notices by itself that a worker is gone."""
    return url.startswith(("sqlite:", "postgres"))


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns every failure to reach the storage into one line.

    Raises:
        ConfigError: its driver is not installed.
        Unreachable: it cannot be reached, read or written.
    """
    try:
        yield
    except NPError:
        raise
    except ImportError as error:
        raise ConfigError(f"{hidden(url)} needs a driver ({error}): pip install 'npexp[sweep]'") from error
    except Exception as error:
        ours = isinstance(error, (StorageInternalError, SQLAlchemyError, OSError))
        if not ours and not type(error).__module__.startswith("grpc"):
            raise
        cause = error.__cause__ or error
        said = cause.details() if hasattr(cause, "details") else str(cause)  # gRPC's own text is a page
        why = next(iter(said.splitlines()), "") or type(cause).__name__
        raise Unreachable(
            f"cannot use the storage {hidden(url)} ({why}): check that its server runs or its folder can be written; "
            "the same command goes on"
        ) from error


def _lock_first(engine: Engine) -> None:
    """Has SQLite lock its file when a transaction begins, not when it first writes.

    Python's driver begins one with the first write only. Two workers would both read that a trial is waiting, and both
    take it.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def hidden(url: str) -> str:
    """The URL less a password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", r"\1:…@", url)


def quiet() -> None:
    """Leaves out what Optuna and gRPC say by themselves: ours says the same in one line."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when it is imported, with the first URL of its kind
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
