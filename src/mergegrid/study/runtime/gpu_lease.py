"""Leases of GPUs: a job locks the devices that it computes on, so that no two jobs share one.

A lease is a file lock per device, named by the UUID of the device. It lasts as long as its process,
because GPU memory does: torch and vLLM return it to the driver only on exit. So there is no
function to release a lease; the kernel drops the locks when the process and all workers forked
from it have ended, however they end. The files are in `/tmp/mergegrid-devices`, shared by all users
and runs on the machine (`$XDG_RUNTIME_DIR` is per user), or in `$MERGEGRID_LEASES`.

Waiting is fair: the first job in line acquires devices as they become free, and later jobs get none
until it has all it needs. So a job of four GPUs is not starved by jobs of one, and two such jobs
cannot deadlock.

Not covered: programs that take no lease, and children that outlive a killed job.
"""

import fcntl
import logging
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mergegrid.errors import ConfigError
from mergegrid.study.runtime.gpu_devices import Device, device_names, rehearsal, visible_devices
from mergegrid.study.runtime.gpu_monitor import sample

FOLDER = Path("/tmp/mergegrid-devices")
_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_FOR_MEMORY = 5.0
_IDLE_MEMORY_MB = 1000.0

# Descriptors of the locks of this process. They are never closed.
_held: list[int] = []

logger = logging.getLogger(__name__)


def lease(count: int, jobs_per_gpu: int = 1) -> list[Device]:
    """Hold devices until this process ends, and hide all others from it and its children.

    Nothing is leased if a cluster's scheduler gave the job exactly these devices. Call this before
    importing torch: CUDA reads CUDA_VISIBLE_DEVICES once.

    Args:
        count: number of devices.
        jobs_per_gpu: how many jobs may hold one device at a time. A job that does not share waits
            until all that do have ended, and vice versa.

    Raises:
        ConfigError: there are fewer visible devices than `count`, or the lease folder is unusable.
        MergegridError: nvidia-smi does not answer.
    """
    pool = visible_devices()
    if rehearsal() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        logger.info("rehearsal without CUDA_VISIBLE_DEVICES: no GPU is leased")
        return []
    if len(pool) < count:
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        source = "nvidia-smi -L" if variable is None else f"CUDA_VISIBLE_DEVICES={variable!r}"
        raise ConfigError(
            f"the job needs gpu={count}, but this machine shows {len(pool)} GPUs ({source}); "
            f"run with --resources gpu={len(pool)} or fewer, or without it"
        )
    if "SLURM_JOB_ID" in os.environ and len(pool) == count:
        logger.info("GPUs assigned by SLURM: %s", device_names(pool))
        return pool
    # In the order of the machine, not in the order in which they became free.
    devices = sorted(_acquire(pool, count, _lease_folder(), jobs_per_gpu), key=pool.index)
    # nvidia-smi numbers devices by bus; CUDA's default order puts the fastest first.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.name for device in devices)
    logger.info("leased GPUs: %s", device_names(devices))
    return devices


def _lease_folder() -> Path:
    """Create the folder of the locks, with the permissions of /tmp."""
    folder = Path(os.environ.get("MERGEGRID_LEASES", FOLDER))
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"cannot create the folder {folder} for GPU leases: {error}; set MERGEGRID_LEASES to "
            "another folder, the same for all jobs on this machine"
        ) from error
    return folder


def _acquire(pool: Sequence[Device], count: int, folder: Path, jobs_per_gpu: int) -> list[Device]:
    """Lock devices as they become free, while all later jobs queue behind this one."""
    # systemd-tmpfiles leaves a folder in /tmp alone while a process holds a lock on it.
    lock = _open_lock(folder)
    fcntl.flock(lock, fcntl.LOCK_SH)
    _held.append(lock)
    waited = False
    with ExitStack() as turn:
        # Every job queues in the same order of keys, so no two jobs wait for each other.
        for key in sorted(device.key for device in pool):
            lock = _open_lock(folder / f"{key}.turn")
            turn.callback(os.close, lock)
            if not _try_lock(lock):
                waited = True
                logger.info("waiting in line for GPUs of %s", device_names(pool))
                fcntl.flock(lock, fcntl.LOCK_EX)
        taken: list[Device] = []
        reported = False
        while True:
            # Jobs that share a GPU spread over all devices before they double up.
            for slot in range(jobs_per_gpu):
                for device in pool:
                    if device not in taken and len(taken) < count:
                        locks = _lock_device(folder / device.key, slot, jobs_per_gpu)
                        taken += [device] if locks else []
                        _held.extend(locks)
            if len(taken) == count:
                if (waited or reported) and jobs_per_gpu == 1:
                    _wait_for_memory(taken)
                return taken
            if not reported:
                busy = [device for device in pool if device not in taken]
                logger.info(
                    "waiting for %d of %d GPUs; other jobs hold %s (see fuser %s/*.lock)",
                    *(count - len(taken), count, device_names(busy), folder),
                )
                reported = True
            time.sleep(_SECONDS_BETWEEN_TRIES)


def _wait_for_memory(devices: Sequence[Device]) -> None:
    """Wait until the driver has freed the previous job's memory, shortly after its locks."""
    keys = [device.key for device in devices]
    end = time.monotonic() + _SECONDS_FOR_MEMORY
    while used := [memory for memory, _ in sample(keys)]:
        # Memory of a display or of a program without a lease may never become free.
        if max(used) < _IDLE_MEMORY_MB or time.monotonic() > end:
            return
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _lock_device(path: Path, slot: int, jobs_per_gpu: int) -> list[int]:
    """Lock a device, or one slot of a shared device; return no locks if another job holds it."""
    needed = [(f"{path}.lock", fcntl.LOCK_SH if jobs_per_gpu > 1 else fcntl.LOCK_EX)]
    if jobs_per_gpu > 1:
        needed.append((f"{path}.{slot}.lock", fcntl.LOCK_EX))
    locks: list[int] = []
    for name, operation in needed:
        locks.append(_open_lock(Path(name)))
        if not _try_lock(locks[-1], operation):
            for lock in locks:
                os.close(lock)
            return []
    return locks


def _open_lock(path: Path) -> int:
    """Open a lock file read-only, since it may belong to another user; create it if missing."""
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
                path.chmod(0o644)  # Whatever the umask.
            except FileExistsError:
                continue
            except OSError as error:
                raise _unusable(path, error) from error
        except OSError as error:
            raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot use the GPU lease {path}: {error}; remove it, or set MERGEGRID_LEASES to another "
        "folder"
    )


def _try_lock(descriptor: int, operation: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
