"""XLA's persistent compile cache: a program that was compiled before is read, not compiled again."""

import os
from pathlib import Path

from raexla.recipe import UserError


def open_compile_cache(folder: str, tpu: bool) -> Path:
    """Let this program's compilations be kept in a folder, and be found there; called before any device is used.

    Each process has a part of its own, so that hosts may share the folder: torch_xla's cache knows no locks.

    Args:
        tpu: whether the devices are TPUs, whose hosts have numbers.

    Raises:
        UserError: no folder of this machine, or one that can't be written.
    """
    import torch_xla
    import torch_xla.runtime as xr

    if "://" in folder:
        raise UserError(
            f"runtime.compile_cache {folder}: torch_xla keeps compiled programs in a folder: a local disk, or a bucket "
            "that is mounted (gcsfuse)"
        )
    place = Path(folder).expanduser() / _process(tpu)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"runtime.compile_cache {folder}: can't be written: {error}") from None
    if not os.access(place, os.W_OK):
        raise UserError(f"runtime.compile_cache {folder}: can't be written: {place}")
    if not torch_xla._XLAC._xla_computation_cache_is_initialized():  # once a process; asking starts no device
        xr.initialize_cache(str(place))
    return place


def _process(tpu: bool) -> str:
    """A name for this process that asks no device."""
    if not tpu:
        return "process-00000"  # the CPU's devices are one process's
    from torch_xla._internal import tpu as chips

    return f"slice-{os.environ.get('MEGASCALE_SLICE_ID', '0')}-worker-{chips.worker_id():05d}"
