"""The files of this machine that Python and its libraries need, whatever they do."""

from __future__ import annotations

import site
import sys
from collections.abc import Iterator
from pathlib import Path

_SYSTEM = """
    /usr /lib /lib64 /lib32 /bin /sbin /nix/store /opt/nvidia /opt/rocm /opt/intel /run/opengl-driver
    /sys/bus /sys/class /sys/dev /sys/devices /sys/fs/cgroup /sys/kernel/mm /sys/module
    /etc/OpenCL /etc/alternatives /etc/fonts /etc/group /etc/host.conf /etc/hosts /etc/ld.so.cache
    /etc/ld.so.conf /etc/ld.so.conf.d /etc/ld.so.preload /etc/locale.alias /etc/localtime /etc/mime.types
    /etc/nsswitch.conf /etc/os-release /etc/passwd /etc/protocols /etc/resolv.conf /etc/services
    /etc/timezone /etc/vulkan
    /proc/cpuinfo /proc/devices /proc/driver /proc/filesystems /proc/loadavg /proc/meminfo /proc/stat
    /proc/sys /proc/uptime /proc/version
"""
_DEVICES = "/dev/full /dev/null /dev/random /dev/urandom /dev/zero"
_GPUS = ("nvidia*", "dri", "kfd", "dxg")
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-*.so.1")


def readable() -> tuple[Path, ...]:
    """Return what may be read: the system's libraries, this Python, and what it imports from."""
    paths = [Path(path) for path in _SYSTEM.split()]
    paths += map(Path, (sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages()))
    too_wide = {Path("/"), _home()}
    paths += [path for path in map(Path, filter(None, sys.path)) if path.resolve() not in too_wide]
    return tuple(paths)


def devices() -> tuple[Path, ...]:
    """Return the devices that may be used: those that hold nothing, and GPUs."""
    paths = [Path(path) for path in _DEVICES.split()]
    for pattern in _GPUS:
        paths += Path("/dev").glob(pattern)
    return tuple(paths)


def python() -> tuple[Path, ...]:
    """Return the programs by which this Python starts itself once more: its own, and what loads it."""
    return (Path(sys.executable), Path(getattr(sys, "_base_executable", sys.executable)), *_loaders())


def own_process() -> Path:
    """Return what the kernel tells of this process."""
    return Path("/proc/self")


def _loaders() -> Iterator[Path]:
    for pattern in _LOADERS:
        yield from Path("/").glob(pattern.lstrip("/"))


def _home() -> Path:
    try:
        return Path.home().resolve()
    except RuntimeError:
        return Path("/")
