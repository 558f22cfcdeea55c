"""GPUs of this machine: which ones a job may use, and what they are.

A MIG partition counts as a device of its own and replaces the GPU that it is part of. With
`MERGEGRID_DEVICE=cpu` (a rehearsal) the devices are the names in `CUDA_VISIBLE_DEVICES`, whether or
not they exist.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from mergegrid.errors import ConfigError, MergegridError
from mergegrid.study.runtime.gpu_monitor import nvidia_smi

# `nvidia-smi -L` prints, for a GPU and a partition of it:
#   GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
#     MIG 3g.20gb     Device  0: (UUID: MIG-cccc)
_GPU = re.compile(r"GPU (\d+): (.*?)\s*\(UUID: (GPU-[^)]+)\)")
_PARTITION = re.compile(r"\s+(MIG \S+) .*\(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Device:
    """A GPU or a MIG partition."""

    name: str
    """Index or UUID, as in CUDA_VISIBLE_DEVICES."""
    key: str
    """UUID: the same for every process on the machine."""
    model: str = field(default="", compare=False)
    """Product name, such as `NVIDIA A100-SXM4-40GB`; empty if nvidia-smi does not report it."""


def rehearsal() -> bool:
    """Return whether jobs that hold GPUs compute on the CPU.

    Raises:
        ConfigError: `MERGEGRID_DEVICE` is set to anything but `cpu`.
    """
    device = os.environ.get("MERGEGRID_DEVICE", "")
    if device not in ("", "cpu"):
        raise ConfigError(f"MERGEGRID_DEVICE is {device!r}; set it to cpu or unset it")
    return device == "cpu"


def visible_devices() -> list[Device]:
    """List the devices that this process may lease: CUDA_VISIBLE_DEVICES, or all of the machine.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES lists a device that the machine does not have.
        MergegridError: nvidia-smi does not answer.
    """
    installed = [] if rehearsal() else installed_devices()
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return installed
    names = [name.strip() for name in variable.split(",") if name.strip()]
    if "-1" in names:  # CUDA ignores everything from here on.
        names = names[: names.index("-1")]
    by_key = {device.key: device for device in (_resolve(name, installed) for name in names)}
    return list(by_key.values())


def installed_devices() -> list[Device]:
    """List the devices that nvidia-smi reports; none without nvidia-smi or a driver.

    Raises:
        MergegridError: nvidia-smi does not answer.
    """
    try:
        listing = nvidia_smi("-L")
    except subprocess.TimeoutExpired as error:
        raise MergegridError(
            f"`nvidia-smi -L` has not answered within {error.timeout:g} s, so a GPU of this "
            "machine may be lost; check the kernel log (dmesg), then reset the GPU or reboot"
        ) from error
    gpus: list[list[Device]] = []
    for line in listing.splitlines():
        if match := _GPU.match(line):
            model = match[2]
            gpus.append([Device(match[1], match[3], model)])
        elif match := _PARTITION.match(line):
            partitions = [device for device in gpus[-1] if device.key.startswith("MIG-")]
            gpus[-1] = [*partitions, Device(match[2], match[2], f"{model} {match[1]}")]
    return [device for devices in gpus for device in devices]


def hardware_name(device: str) -> str:
    """Return where scores are computed: `cpu`, or the product name of the GPU.

    Scores carry it because float32 sums differ between GPU models.

    Args:
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: CUDA_VISIBLE_DEVICES lists a device that the machine does not have.
        MergegridError: nvidia-smi does not answer.
    """
    if device == "cpu":
        return device
    models = sorted({visible.model for visible in visible_devices() if visible.model})
    return " + ".join(models) or device


def driver_is_too_old(cuda: str | None) -> str | None:
    """Return why the driver of this machine cannot run a build of torch, or None if it can.

    Args:
        cuda: CUDA version that torch was built for, such as `13.0`.
    """
    try:
        report = nvidia_smi()
    except subprocess.TimeoutExpired:
        return None
    driver, supported = (
        re.search(rf"{part} Version: +([\d.]+)", report) for part in ("Driver", "CUDA")
    )
    if not (driver and supported and cuda):
        return None
    generation = supported[1].split(".")[0]
    if int(cuda.split(".")[0]) <= int(generation):
        return None
    return (
        f"its driver {driver[1]} supports CUDA {supported[1]} and older, but torch was built for "
        f"CUDA {cuda}; update the driver (CUDA 13 needs 580, CUDA 12 needs 525), or install a "
        f"torch for CUDA {generation}"
    )


def device_names(devices: Sequence[Device]) -> str:
    """Join the names of devices for a message."""
    return ", ".join(device.name for device in devices)


def _resolve(name: str, installed: Sequence[Device]) -> Device:
    """Find the device that an entry of CUDA_VISIBLE_DEVICES means."""
    for device in installed:
        if name == device.name:
            return device
        if not name.isdigit() and device.key.startswith(name):
            # CUDA accepts the start of a UUID, vLLM only all of it.
            return Device(device.key, device.key, device.model)
    if installed:
        raise ConfigError(
            f"CUDA_VISIBLE_DEVICES lists {name}, but nvidia-smi reports {device_names(installed)}; "
            "choose from these, or unset it"
        )
    # Without a driver there is no UUID, and on a cluster every job may count its devices from 0.
    return Device(name, "-".join(["unlisted", os.environ.get("SLURM_JOB_ID", ""), name]))
