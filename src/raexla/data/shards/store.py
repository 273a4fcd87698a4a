"""The files that shards lie in: `raexla.files`, by the names that shards know its errors by."""

from raexla.files import FileDamaged as ShardDamaged
from raexla.files import FileUnavailable as ShardUnavailable
from raexla.files import Retry, Store, transport_errors

__all__ = ["Retry", "ShardDamaged", "ShardUnavailable", "Store", "transport_errors"]
