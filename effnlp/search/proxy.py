"""Optuna's gRPC proxy as the storage of a sweep, for workers that may not reach the database themselves."""

import json
import warnings
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy

from effnlp.compose import ConfigError
from effnlp.search.postgresql import shown

CONNECT_SECONDS = 10
"""How long a proxy may take to answer the first time."""
RETURN_SECONDS = 60
"""How long each call waits for a proxy that has gone: it may have been restarted."""


def open_proxy(where: str) -> BaseStorage:
    """The storage that a proxy stands for. Calls wait while the proxy is restarted.

    Args:
        where: ``grpc://host:port``.

    Raises:
        ConfigError: If ``where`` is not that, the package is missing, or no proxy answers.
    """
    host, port = address(where)
    try:
        import grpc
    except ImportError as error:
        raise ConfigError(
            f"search.storage={where} needs grpcio: pip install 'effnlp[grpc]' ({error})"
        ) from error
    from optuna.storages._grpc.auto_generated.api_pb2_grpc import StorageServiceStub
    from optuna.storages._grpc.client import GrpcClientCache

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = GrpcStorageProxy(host=host, port=port)
    storage.close()
    # In place of Optuna's own channel, whose calls fail at once where nobody listens. A call that was sent is
    # never sent again: who knows whether it was done.
    every_call = {"name": [{}], "waitForReady": True, "timeout": f"{RETURN_SECONDS}s"}
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.service_config", json.dumps({"methodConfig": [every_call]})),
    ]
    storage._channel = grpc.insecure_channel(f"{host}:{port}", options)
    storage._stub = StorageServiceStub(storage._channel)
    storage._cache = GrpcClientCache(storage._stub)
    try:
        grpc.channel_ready_future(storage._channel).result(timeout=CONNECT_SECONDS)
    except grpc.FutureTimeoutError as error:
        storage.close()
        raise ConfigError(
            f"search.storage: no proxy answered at {host}:{port} within {CONNECT_SECONDS} s"
        ) from error
    return storage


def address(where: str) -> tuple[str, int]:
    """Host and port of ``grpc://host:port``.

    Raises:
        ConfigError: If it is not of that form.
    """
    parts = urlsplit(where)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme != "grpc" or not host or port is None or parts.path or parts.username or parts.query:
        raise ConfigError(f"search.storage: a gRPC proxy is grpc://HOST:PORT, got {shown(where)!r}")
    return f"[{host}]" if ":" in host else host, port
