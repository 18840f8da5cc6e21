"""What the cluster remembers of named models when the keeper is lost: of those that came from files.

It is in the key-value store of Ray's control service (GCS), which outlives every node but the head's. The keeper alone
writes to it. Imports no torch.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

from ray.experimental import internal_kv

_NAMESPACE = "ray_zerocopy"
_PREFIX = "model:"


def put(key: str, record: Any) -> None:
    """Remembers a record under a key, in place of what was there."""
    internal_kv._internal_kv_put(_PREFIX + key, pickle.dumps(record), overwrite=True, namespace=_NAMESPACE)


def forget(key: str) -> None:
    """Forgets what is under a key, if there is anything."""
    internal_kv._internal_kv_del(_PREFIX + key, namespace=_NAMESPACE)


def records() -> Iterator[Any]:
    """All that was put and not forgotten."""
    for key in internal_kv._internal_kv_list(_PREFIX, namespace=_NAMESPACE):
        found = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
        if found is not None:
            yield pickle.loads(found)
