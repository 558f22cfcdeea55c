"""Leases of GPUs: a job holds those that it computes on, so that no two jobs share one.

A lease is a lock on one file per device, named by the device's UUID. It lasts as long as its
process, because the memory of a GPU does: torch and vLLM give it back to the driver only when their
process ends. So nothing here gives a lease back; the kernel does, at the end of the process and of
the workers that were forked from it, however they end. The files are in
`/tmp/mergegrid-devices`, the same for all users and all runs of a machine (`$XDG_RUNTIME_DIR` would
be one user's), or in the folder that `MERGEGRID_LEASES` names.

Who waits takes devices as they become free, and alone: jobs that came later get none before it has
all. So a job of four GPUs is not starved by jobs of one, and two of them cannot block each other.

With `MERGEGRID_DEVICE=cpu` jobs lease what `CUDA_VISIBLE_DEVICES` names and compute on the CPU: a
rehearsal, on any machine.

What is not covered: programs that lease nothing, and children that a killed job leaves running.
"""

import fcntl
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mergegrid.errors import ConfigError, MergegridError
from mergegrid.study.runtime.gpu_monitor import nvidia_smi, sample

FOLDER = Path("/tmp/mergegrid-devices")
_SECONDS_BETWEEN_TRIES = 0.2
_SECONDS_FOR_MEMORY = 5.0
_LITTLE_MEMORY = 1000.0
"""MB."""
_GPU = re.compile(r"GPU (\d+): (.*?)\s*\(UUID: (GPU-[^)]+)\)")
# What nvidia-smi writes at its top.
_VERSIONS = ("Driver", "CUDA")
_PART = re.compile(r"\s+(MIG \S+) .*\(UUID: (MIG-[^)]+)\)")

# Descriptors of the locks of this process, which are never closed.
_held: list[int] = []

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A GPU, or a part of one that counts as one."""

    name: str
    """As CUDA_VISIBLE_DEVICES has it: an index or a UUID."""
    key: str
    """The same for every process of the machine."""
    model: str = field(default="", compare=False)
    """What it is, such as `NVIDIA A100-SXM4-40GB`; empty where nvidia-smi does not say."""


def rehearsal() -> bool:
    """Whether jobs that hold GPUs compute on the CPU.

    Raises:
        ConfigError: `MERGEGRID_DEVICE` is something else than `cpu`.
    """
    device = os.environ.get("MERGEGRID_DEVICE", "")
    if device not in ("", "cpu"):
        raise ConfigError(f"MERGEGRID_DEVICE is {device!r}; set it to cpu, or not at all")
    return device == "cpu"


def visible() -> list[Device]:
    """The devices that this process may lease: CUDA_VISIBLE_DEVICES, or all of the machine.

    Raises:
        ConfigError: a device is named that the machine does not have.
        MergegridError: nvidia-smi does not answer.
    """
    listed = [] if rehearsal() else listed_devices()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return listed
    names = [name.strip() for name in given.split(",") if name.strip()]
    if "-1" in names:  # CUDA reads no further.
        names = names[: names.index("-1")]
    found = {device.key: device for device in (_named(name, listed) for name in names)}
    return list(found.values())


def listed_devices() -> list[Device]:
    """The devices that nvidia-smi lists; none where there is no nvidia-smi, or no driver.

    The parts of a partitioned GPU stand in its place.

    Raises:
        MergegridError: nvidia-smi does not answer.
    """
    try:
        listing = nvidia_smi("-L")
    except subprocess.TimeoutExpired as error:
        raise MergegridError(
            f"`nvidia-smi -L` has not answered within {error.timeout:g} s; a GPU of this machine "
            "may be lost: see the kernel's log (dmesg), and reset it or restart the machine"
        ) from error
    gpus: list[list[Device]] = []
    for line in listing.splitlines():
        if match := _GPU.match(line):
            model = match[2]
            gpus.append([Device(match[1], match[3], model)])
        elif match := _PART.match(line):
            whole = [device for device in gpus[-1] if device.key.startswith("MIG-")]
            gpus[-1] = [*whole, Device(match[2], match[2], f"{model} {match[1]}")]
    return [device for gpu in gpus for device in gpu]


def described(device: str) -> str:
    """What scores say of where they were computed: `cpu`, or the model of the GPU.

    Sums of float32 differ between models of GPUs, so their scores are not mixed.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES names a device that the machine does not have.
        MergegridError: nvidia-smi does not answer.
    """
    if device == "cpu":
        return device
    models = sorted({each.model for each in visible() if each.model})
    return " + ".join(models) or device


def driver_is_too_old(cuda: str | None) -> str | None:
    """Why the driver of this machine cannot run a build of torch, None where it can.

    Args:
        cuda: the version of CUDA that torch was built for, such as `13.0`.
    """
    try:
        asked = nvidia_smi()
    except subprocess.TimeoutExpired:
        return None
    driver, offered = (re.search(rf"{what} Version: +([\d.]+)", asked) for what in _VERSIONS)
    if not (driver and offered and cuda):
        return None
    generation = offered[1].split(".")[0]
    if int(cuda.split(".")[0]) <= int(generation):
        return None
    return (
        f"its driver {driver[1]} is for CUDA {offered[1]} and older, and torch was built for CUDA "
        f"{cuda}; update the driver (CUDA 13 needs 580, CUDA 12 needs 525), or install a torch for "
        f"CUDA {generation}"
    )


def lease(count: int, jobs_per_gpu: int = 1) -> list[Device]:
    """Hold so many devices until this process ends, and let it and its children see no others.

    Args:
        count: how many.
        jobs_per_gpu: how many jobs may hold one device at a time; the largest number counts. A
            job that does not share waits until all of these have ended, and the other way round.

    Nothing is leased where the scheduler of a cluster gave the job exactly these devices. CUDA
    reads what it may see once, so a lease comes before torch is imported.

    Raises:
        ConfigError: fewer devices can be seen than are asked for, or the folder of the leases
            cannot be used.
        MergegridError: nvidia-smi does not answer.
    """
    pool = visible()
    if rehearsal() and "CUDA_VISIBLE_DEVICES" not in os.environ:
        logger.info("a rehearsal without devices: nothing is leased")
        return []
    if len(pool) < count:
        raise ConfigError(
            f"the job holds gpu={count}, and this machine shows {len(pool)} GPUs "
            f"({_where_from()}); run with --resources gpu={len(pool)} or fewer, or without"
        )
    if "SLURM_JOB_ID" in os.environ and len(pool) == count:
        logger.info("GPUs that SLURM gave: %s", _text(pool))
        return pool
    # In the order of the machine, whichever was free first.
    devices = sorted(_wait_for(pool, count, _folder(), jobs_per_gpu), key=pool.index)
    # Indices are those of nvidia-smi, not CUDA's own, which put the fastest first.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(device.name for device in devices)
    logger.info("leased GPUs: %s", _text(devices))
    return devices


def _named(name: str, listed: Sequence[Device]) -> Device:
    for device in listed:
        if name == device.name:
            return Device(name, device.key, device.model)
        if not name.isdigit() and device.key.startswith(name):
            # CUDA takes the beginning of a UUID, vLLM only the whole.
            return Device(device.key, device.key, device.model)
    if listed:
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES names {name}, and nvidia-smi lists {_text(listed)}; "
            "name some of these, or unset it"
        )
    # No driver to ask; on a cluster every job may count its devices from 0.
    return Device(name, "-".join(["unlisted", os.environ.get("SLURM_JOB_ID", ""), name]))


def _where_from() -> str:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "nvidia-smi -L" if given is None else f"CUDA_VISIBLE_DEVICES={given!r}"


def _folder() -> Path:
    """The folder of the locks, which every user may add to, and nobody but its owner remove."""
    folder = Path(os.environ.get("MERGEGRID_LEASES", FOLDER))
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"{folder} for leases of GPUs cannot be made: {error}; "
            "name another folder, the same for all jobs of the machine, as MERGEGRID_LEASES"
        ) from error
    return folder


def _wait_for(pool: Sequence[Device], count: int, folder: Path, jobs_per_gpu: int) -> list[Device]:
    """Take devices one by one as they become free, while all others who want them stand behind."""
    # A whole folder is left alone by those who clear up /tmp while somebody holds a lock on it.
    lock = _open(folder)
    fcntl.flock(lock, fcntl.LOCK_SH)
    _held.append(lock)
    waited = said = False
    with ExitStack() as turn:
        # In one order for everybody, so that none waits for one who waits for it.
        for key in sorted(device.key for device in pool):
            path = folder / f"{key}.turn"
            lock = turn.enter_context(_opened(path))
            if not _locked(lock):
                waited = True
                logger.info("waiting for a turn: another job waits for GPUs of %s", _text(pool))
                fcntl.flock(lock, fcntl.LOCK_EX)
        taken: list[Device] = []
        while True:
            # Jobs that share spread over all devices first.
            for place in range(jobs_per_gpu):
                for device in pool:
                    if device not in taken and len(taken) < count:
                        locks = _take(folder / device.key, place, jobs_per_gpu)
                        taken += [device] if locks else []
                        _held.extend(locks)
            if len(taken) == count:
                if (waited or said) and jobs_per_gpu == 1:
                    _wait_for_memory(taken)
                return taken
            if not said:
                others = [device for device in pool if device not in taken]
                logger.info(
                    "waiting for %d of %d GPUs; other jobs hold %s (fuser %s/*.lock names them)",
                    *(count - len(taken), count, _text(others), folder),
                )
                said = True
            time.sleep(_SECONDS_BETWEEN_TRIES)


def _wait_for_memory(devices: Sequence[Device]) -> None:
    """Wait until the driver has back what others held; the kernel unlocks a little before that."""
    keys = [device.key for device in devices]
    end = time.monotonic() + _SECONDS_FOR_MEMORY
    while used := [memory for memory, _ in sample(keys)]:
        # What a driver, a display or a program that leases nothing keeps is not waited for long.
        if max(used) < _LITTLE_MEMORY or time.monotonic() > end:
            return
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _take(path: Path, place: int, jobs_per_gpu: int) -> list[int]:
    """Locks of a device, or of one place on it; none where somebody else holds it."""
    wanted = [(f"{path}.lock", fcntl.LOCK_SH if jobs_per_gpu > 1 else fcntl.LOCK_EX)]
    if jobs_per_gpu > 1:
        wanted.append((f"{path}.{place}.lock", fcntl.LOCK_EX))
    locks: list[int] = []
    for name, operation in wanted:
        locks.append(_open(Path(name)))
        if not _locked(locks[-1], operation):
            for lock in locks:
                os.close(lock)
            return []
    return locks


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open for locking only, which needs no right to write: another user may have made the file."""
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o644))
                path.chmod(0o644)  # Whatever the umask is.
            except FileExistsError:
                continue
            except OSError as error:
                raise _unusable(path, error) from error
        except OSError as error:
            raise _unusable(path, error) from error


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the lease {path} cannot be used: {error}; remove it, or name another folder as "
        "MERGEGRID_LEASES"
    )


def _locked(descriptor: int, operation: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _text(devices: Sequence[Device]) -> str:
    return ", ".join(device.name for device in devices)
