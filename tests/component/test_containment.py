"""What a contained process tries in vain, as root and as another user, and what it still can."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

import pytest

from runtimes.containment import landlock, places
from runtimes.containment.containment import ALL, FILES, lacking
from runtimes.engines.process import is_passed

ROOT = Path(__file__).parents[2]
NOBODY = 65534
USERS = [os.getuid(), NOBODY] if os.getuid() == 0 else [os.getuid()]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's kernel does it")

# Imports first: another user may not read the interpreter's own directory. Threads of before are told, too.
BEGIN = """
    import encodings.idna, errno, json, os, socket, subprocess, sys, threading
    from pathlib import Path
    from runtimes.containment import containment, environment, kernel, landlock, places
    from runtimes.containment.containment import Rules, contain
    from runtimes.containment.landlock import Files
    from runtimes.containment.seccomp import Sockets
    own, kit, other, user = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    if os.getuid() != user:
        os.setgroups([]); os.setgid(user); os.setuid(user)
    results, wanted, answered = {}, threading.Event(), threading.Event()
    def attempt(name, action):
        try:
            value = action()
            results[name] = value if isinstance(value, (str, int, list)) else "done"
        except OSError as error:
            results[name] = errno.errorcode[error.errno]
    def call(name, *arguments):
        return kernel.call(name, *(arguments or (0, 0, 0, 0, 0)))
    def earlier():
        wanted.wait()
        attempt("earlier thread: new Unix socket", lambda: socket.socket(socket.AF_UNIX))
        attempt("earlier thread: ptrace", lambda: call("ptrace", 16, 0, 0, 0))
        answered.set()
    threading.Thread(target=earlier, daemon=True).start()
    files = Files((*places.readable(), places.own_process(), kit), (own,), places.devices(), places.python())
"""
END = """
    wanted.set(); answered.wait()
    print(json.dumps(results)); sys.stdout.flush(); os._exit(0)
"""


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def run(tmp_path: Path, user: int, text: str) -> dict[str, object]:
    """Run what `text` says in a process of `user`, and return the results of its attempts."""
    own, kit, other = (tmp_path / name for name in ("own", "kit", "other"))
    for path in (own, kit, other):
        path.mkdir()
        (path / "file").write_text(path.name)
    temporary = Path(tempfile.gettempdir())
    for path in (tmp_path, *tmp_path.parents):
        if path != temporary and path.is_relative_to(temporary):
            path.chmod(0o755)
    for path in (own, kit, other):
        for each in (path, path / "file"):
            os.chown(each, user, user)
    script = dedent(BEGIN) + dedent(text) + dedent(END)
    done = subprocess.run(
        [sys.executable, "-c", script, own, kit, other, str(user)],
        env={
            "PYTHONPATH": str(ROOT),
            "REGISTRY_PASSWORD": "swordfish-of-a-registry",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, object] = json.loads(done.stdout)
    return results


NEVER = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "move_pages"),
    *("mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "fsopen", "open_tree", "quotactl"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "bpf", "perf_event_open", "userfaultfd"),
    *("add_key", "request_key", "keyctl", "open_by_handle_at", "name_to_handle_at", "personality"),
    *("reboot", "swapon", "sethostname", "syslog", "settimeofday"),
)
NEEDS_FILES = pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")


@NEEDS_FILES
def test_a_contained_process_has_its_kit_and_its_own_directory(tmp_path: Path, user: int) -> None:
    results = run(
        tmp_path,
        user,
        """
        results["on"] = list(contain(Rules(files)))
        attempt("read kit", lambda: (kit / "file").read_text())
        attempt("write kit", lambda: (kit / "new").write_text(""))
        attempt("read own", lambda: (own / "file").read_text())
        attempt("write own", lambda: (own / "new").write_text(""))
        attempt("read other", lambda: (other / "file").read_text())
        attempt("list other", lambda: os.listdir(other))
        attempt("write other", lambda: (other / "file").write_text("stolen"))
        attempt("remove other", lambda: (other / "file").unlink())
        attempt("link other", lambda: os.link(other / "file", own / "link"))
        attempt("truncate other", lambda: os.truncate(other / "file", 0))
        attempt("read shared memory", lambda: os.listdir("/dev/shm"))
        attempt("read parent", lambda: Path(f"/proc/{os.getppid()}/environ").read_text())
        attempt("name parent", lambda: Path(f"/proc/{os.getppid()}/cmdline").read_text())
        attempt("read itself", lambda: bool(Path("/proc/self/status").read_text()) + 0)
        attempt("read system", lambda: len(Path("/etc/passwd").read_text()) > 0 and "yes")
        attempt("random", lambda: len(Path("/dev/urandom").open("rb").read(8)))
        attempt("signal parent", lambda: os.kill(os.getppid(), 0))
        attempt("signal itself", lambda: os.kill(os.getpid(), 0) or "done")
        """,
    )
    assert set(results.pop("on")) == set(ALL)  # type: ignore[call-overload]
    version = landlock.abi()
    assert results.pop("signal parent") == ("EPERM" if version >= 6 or user == NOBODY else "done")
    assert results.pop("truncate other") == ("EACCES" if version >= 3 else "done")
    assert results.pop("link other") in ("EACCES", "EXDEV")
    results.pop("earlier thread: new Unix socket")
    results.pop("earlier thread: ptrace")
    refused = ("write kit", "read other", "list other", "write other", "remove other", "read shared memory")
    assert [results.pop(name) for name in (*refused, "read parent", "name parent")] == ["EACCES"] * 8
    assert results == {
        "read kit": "kit",
        "read own": "own",
        "write own": 0,
        "read itself": 1,
        "read system": "yes",
        "random": 8,
        "signal itself": "done",
    }


def test_calls_that_serve_no_model_are_refused_to_every_thread(tmp_path: Path, user: int) -> None:
    results = run(
        tmp_path,
        user,
        f"""
        contain(Rules(None))
        for name in {NEVER}:
            attempt(name, lambda: call(name))
        attempt("io_uring", lambda: call("io_uring_setup", 1, 0))
        attempt("execute", lambda: os.execv("/bin/true", ["true"]))
        attempt("start", lambda: subprocess.run(["/bin/true"]))
        attempt("fork", lambda: os.fork())
        attempt("clone3", lambda: call("clone3", 0, 0))
        for family in ("AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
            attempt(family, lambda: socket.socket(getattr(socket, family), socket.SOCK_DGRAM))
        attempt("pair", lambda: socket.socketpair() and "done")
        thread = threading.Thread(target=lambda: results.__setitem__("thread", "done"))
        thread.start(); thread.join()
        """,
    )
    assert [results.pop("io_uring"), results.pop("clone3")] == ["ENOSYS", "ENOSYS"]
    assert [results.pop("pair"), results.pop("thread")] == ["done", "done"]
    assert results == dict.fromkeys(results, "EPERM")
    assert results.keys() > {"earlier thread: new Unix socket", "earlier thread: ptrace", *NEVER}


def test_a_worker_keeps_the_sockets_of_ray_and_callers(tmp_path: Path, user: int) -> None:
    results = run(
        tmp_path,
        user,
        """
        contain(Rules(files, Sockets.STREAMS, may_signal=True))
        server = socket.create_server(("127.0.0.1", 0))
        attempt("connect", lambda: socket.create_connection(server.getsockname()) and "done")
        attempt("Unix", lambda: socket.socket(socket.AF_UNIX) and "done")
        attempt("UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW))
        attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_STREAM))
        attempt("UDP of another flag", lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | 0o2000000))
        attempt("signal", lambda: os.kill(os.getpid(), 0) or "done")
        """,
    )
    assert [results[name] for name in ("connect", "Unix", "signal")] == ["done"] * 3
    assert [results[name] for name in ("UDP", "raw", "packet", "UDP of another flag")] == ["EPERM"] * 4


def test_an_engine_listens_and_connects_nowhere(tmp_path: Path, user: int) -> None:
    results = run(
        tmp_path,
        user,
        """
        os.chdir(own)
        contain(Rules(files, Sockets.LISTENING))
        listener = socket.socket(socket.AF_UNIX); listener.bind("engine.sock"); listener.listen()
        attempt("connect", lambda: socket.socket(socket.AF_UNIX).connect("engine.sock"))
        attempt("TCP", lambda: socket.socket())
        """,
    )
    assert [results["connect"], results["TCP"]] == ["EPERM", "EPERM"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root has capabilities")
def test_root_gives_up_its_capabilities_for_good(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        0,
        """
        os.chown(other / "file", 65534, 65534); os.chmod(other / "file", 0o600)
        contain(Rules(None, may_start_programs=True, may_start_processes=True))
        lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
            results[name] = int(lines[name], 16)
        attempt("file of another", lambda: (other / "file").read_text())
        attempt("own file", lambda: (own / "file").read_text())
        attempt("give away", lambda: os.chown(own / "file", 65534, 65534))
        child = subprocess.run(["/bin/grep", "CapEff", "/proc/self/status"], capture_output=True, text=True)
        results["child"] = int(child.stdout.split()[1], 16)
        """,
    )
    assert [results[f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
    assert [results["NoNewPrivs"], results["Seccomp"], results["child"]] == [1, 2, 0]
    assert [results["file of another"], results["give away"]] == ["EACCES", "EPERM"]
    assert results["own file"] == "own"


@NEEDS_FILES
def test_python_starts_itself_once_more_and_nothing_else(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        os.getuid(),
        """
        contain(Rules(files, may_start_programs=True, may_start_processes=True))
        def start(*command):
            return subprocess.run(command, capture_output=True, text=True, cwd=own).stdout.strip()
        attempt("another", lambda: start("/bin/cat", "/dev/null"))
        attempt("itself", lambda: start(sys.executable, "-c", "print(1 + 1)"))
        code = f"print(__import__('os').access({str(other)!r}, 0)); open({str(other / 'file')!r})"
        attempt("contained as it is", lambda: "Permission" in subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True).stderr and "yes")
        """,
    )
    assert results["another"] == "EACCES"
    assert (results["itself"], results["contained as it is"]) == ("2", "yes")


def test_core_dumps_and_endless_files_are_limited(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        os.getuid(),
        """
        import resource
        contain(Rules(None))
        results["core"] = resource.getrlimit(resource.RLIMIT_CORE)[1]
        results["file"] = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        attempt("large", lambda: os.truncate(own / "file", 5 << 30))
        """,
    )
    assert (results["core"], results["file"], results["large"]) == (0, 4 << 30, "EFBIG")


def test_variables_of_no_list_are_gone_from_the_process(tmp_path: Path, user: int) -> None:
    results = run(
        tmp_path,
        user,
        """
        environment.scrub(lambda name: name == "PATH")
        results["variables"] = [*os.environ]
        attempt("block", lambda: Path("/proc/self/environ").read_bytes().decode())
        results["path"] = os.environ["PATH"]
        """,
    )
    assert (results["variables"], results["path"]) == (["PATH"], "/usr/bin:/bin")
    assert "swordfish" not in str(results["block"])
    assert "/usr/bin" in str(results["block"]) or user == NOBODY  # who changed their user may not read it


def test_without_landlock_all_else_is_on(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        os.getuid(),
        """
        landlock.abi = lambda: 0
        results["lacking"] = list(containment.lacking())
        results["on"] = list(contain(Rules(files)))
        attempt("read other", lambda: (other / "file").read_text())
        attempt("fork", lambda: os.fork())
        """,
    )
    assert (results["lacking"], results["read other"], results["fork"]) == ([FILES], "other", "EPERM")
    assert results["on"] == [name for name in ALL if name != FILES]


def test_on_another_system_only_limits_are_on(tmp_path: Path) -> None:
    results = run(
        tmp_path,
        os.getuid(),
        """
        kernel.IS_KNOWN = False
        results["lacking"] = list(containment.lacking())
        results["on"] = list(contain(Rules(files)))
        """,
    )
    assert (results["lacking"], results["on"]) == ([n for n in ALL if n != "limits"], ["limits"])


def test_what_is_lacking_is_what_is_not_on() -> None:
    assert lacking(ALL) == ()
    assert lacking(()) == ALL
    assert not is_passed("HUGGING_FACE_TOKEN")
    assert all(path.is_absolute() for path in places.devices())
