"""Runs student code where it can do no harm: own process, limits, no network, no foreign files.

A warm process (:func:`serve`) has loaded torch and forks a child for every submission, so that a
submission starts in milliseconds. Before it runs a line of the submission the child gives up

- **files**: Landlock; it reads the Python installation and writes its scratch folder, no more;
- **network, processes, signals, file modes**: seccomp; each such call fails with "not permitted";
- **privileges**: all capabilities, should the grader run as root;
- **time, memory, file size**: resource limits.

Needs Linux 6.2 or newer and the library libseccomp.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import sysconfig
import threading
import time
import traceback
from pathlib import Path

COURSEWORK = Path(__file__).parents[1]
GIB = 1 << 30
#: Limits of one submission: seconds for a cell and for all, bytes; and whether long cells run at all.
LIMITS = {
    "cell": 60,
    "seconds": 600,
    "memory": 4 * GIB,
    "file": 50 << 20,
    "folder": 200 << 20,
    "experiments": True,
}
FORBIDDEN = """
    socket socketpair connect bind listen accept accept4 io_uring_setup
    fork vfork execve execveat ptrace process_vm_readv process_vm_writev
    kill tkill tgkill pidfd_open pidfd_getfd pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo
    setrlimit setpriority sched_setaffinity sched_setscheduler setns unshare
    memfd_create memfd_secret sched_setattr sched_setparam ioprio_set migrate_pages move_pages
    shmget msgget semget mq_open keyctl add_key request_key bpf perf_event_open userfaultfd
    chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr mknod mknodat
""".split()
INLINE = "module://matplotlib_inline.backend_inline"
#: Newer calls that change files, by number (the same on all processors): an old libseccomp knows no
#: names for fchmodat2, setxattrat, removexattrat and file_setattr.
NUMBERED = (452, 463, 466, 469)
SIGNAL_BY_FILE = (8, 10, 15)  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX
#: What a submission may read of the system; nothing in it is anybody's own.
SYSTEM = """
    /usr/lib /usr/lib64 /usr/local/lib /usr/share /lib /lib64 /sys/devices/system/cpu /proc/self
    /proc/cpuinfo /proc/meminfo /etc/ld.so.cache /etc/localtime /etc/fonts /etc/passwd
    /etc/nsswitch.conf /etc/ssl/certs
""".split()
#: What the warm process keeps of the teacher's environment, which may hold passwords.
KEPT = ("PATH", "HOME", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR", "IPYTHONDIR")
CLONE_THREAD = 0x10000
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls of Landlock
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8  # rights
ALL = (1 << 15) - 1  # all rights of version 3
DEVICES = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"]


class NoSandbox(RuntimeError):
    """This computer cannot isolate submissions; the message says what is missing."""


def check() -> None:
    """Raise :class:`NoSandbox` unless this computer can isolate submissions."""
    way_out = (
        "Run the grader on Linux (WSL2 and Docker will do), or, if you trust every submission as "
        "you trust your own code, with TRUST=1"
    )
    if sys.platform != "linux":
        raise NoSandbox(f"the sandbox expects Linux, got {sys.platform}. {way_out}")
    try:
        import pyseccomp  # noqa: F401
    except ModuleNotFoundError as error:
        raise NoSandbox(
            f"the sandbox needs the package {error.name}: pip install -r coursework/requirements.txt"
        ) from None
    except (ImportError, OSError, RuntimeError) as error:
        raise NoSandbox(
            f"the sandbox needs the library libseccomp ({error}). On Debian and Ubuntu: "
            f"sudo apt install libseccomp2. {way_out}"
        ) from None
    try:
        version = _landlock(CREATE_RULESET, None, 0, 1)  # LANDLOCK_CREATE_RULESET_VERSION
    except OSError:
        version = 0
    if version < 3:
        raise NoSandbox(
            "the sandbox expects Landlock of version 3 or newer (Linux 6.2), got version "
            f"{version}. {way_out}"
        )
    for path in map(Path, readable()):
        if (COURSEWORK / "hidden").is_relative_to(path.resolve()):
            raise NoSandbox(
                f"the sandbox lets submissions read {path}, where Python lies, but the hidden tests "
                "lie below it: move the repository, or the environment into its folder .venv"
            )


# --- what the child does to itself --------------------------------------------------------------


def lock(scratch: Path) -> None:
    """Give up files, network, processes and privileges, for good."""
    _drop_privileges()
    _lock_files(scratch)
    _lock_calls()


def limit(limits: dict) -> None:
    """Set the limits on processor time, memory and the size of a file."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    seconds = int(used + limits["seconds"])
    bounds = {resource.RLIMIT_FSIZE: limits["file"], resource.RLIMIT_CORE: 0}
    bounds[resource.RLIMIT_NOFILE] = 64
    if sys.platform == "linux":  # others do not keep to a limit on memory
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bounds[resource.RLIMIT_AS] = pages * resource.getpagesize() + limits["memory"]
    for what, most in bounds.items():
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU, then SIGKILL
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing fails instead


def _drop_privileges() -> None:
    """Drop every capability; a root without them is bound like anybody else."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    nothing = (ctypes.c_uint32 * 6)()
    for capability in range(64):
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
    if libc.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "dropping the capabilities failed")


def readable() -> list[str]:
    """Return what a submission may read: Python, its packages, and the system's libraries."""
    import normlab

    paths = {*SYSTEM, *sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
    paths |= {str(Path(normlab.__file__).parent), str(Path(__file__).parent)}
    return sorted(path for path in paths - {"/usr", "/"} if os.path.exists(path))


def _lock_files(scratch: Path) -> None:
    """Allow the scratch folder, reading what :func:`readable` lists, and nothing else (Landlock)."""
    rules = _landlock(CREATE_RULESET, ctypes.byref(ctypes.c_uint64(ALL)), 8, 0)
    allowed = dict.fromkeys(readable(), EXECUTE | READ_FILE | READ_DIR)
    allowed |= {path: READ_FILE | WRITE_FILE for path in DEVICES if os.path.exists(path)}
    allowed[str(scratch)] = ALL
    for path, rights in allowed.items():
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            rights &= EXECUTE | READ_FILE | WRITE_FILE
        rule = struct.pack("=Qi", rights, place)
        _landlock(ADD_RULE, rules, 1, rule, 0)  # LANDLOCK_RULE_PATH_BENEATH
        os.close(place)
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    _landlock(RESTRICT_SELF, rules, 0)
    os.close(rules)


def _landlock(number: int, *arguments) -> int:
    """Make a system call of Landlock; return its answer.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    answer = libc.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), "Landlock: " + os.strerror(ctypes.get_errno()))
    return answer


def _lock_calls() -> None:
    import pyseccomp as seccomp

    calls = seccomp.SyscallFilter(seccomp.ALLOW)
    no = seccomp.ERRNO(errno.EPERM)
    for name in (*FORBIDDEN, *NUMBERED):
        try:
            calls.add_rule(no, name)
        except OSError:
            continue  # a call that this processor or this libseccomp does not know
    thread = seccomp.Arg(0, seccomp.MASKED_EQ, CLONE_THREAD, 0)
    calls.add_rule(no, "clone", thread)
    calls.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags cannot be looked at
    calls.add_rule(no, "prlimit64", seccomp.Arg(2, seccomp.NE, 0))
    for operation in SIGNAL_BY_FILE:
        calls.add_rule(no, "fcntl", seccomp.Arg(1, seccomp.EQ, operation))
    calls.load()


# --- the warm process -----------------------------------------------------------------------------


def serve() -> None:
    """Read jobs from standard input, one JSON object per line; answer each with one line."""
    import matplotlib.pyplot  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch
    import torch._dynamo
    import torch.fx.experimental.symbolic_shapes  # these two: torch loads them at a first step

    import normlab.train  # noqa: F401
    from grader import inside

    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, RuntimeError):
            import pyseccomp  # noqa: F401
    sys.path[:] = [path for path in sys.path if path]
    _die_with_parent()
    torch.set_num_threads(1)
    inside.shell()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        job = json.loads(line)
        ready, tell_ready = os.pipe()
        pid = os.fork()
        if not pid:
            _child(job, inside, tell_ready)
        os.close(tell_ready)
        ended = _wait(pid, job)
        started = os.read(ready, 1) == b"1"
        os.close(ready)
        answers.write(json.dumps({"started": started, "ended": ended}) + "\n")
        answers.flush()


def _child(job: dict, inside, tell_ready: int) -> None:
    """Run a submission in this freshly forked process, which ends with it."""
    status = 1
    try:
        scratch = Path(job["scratch"])
        os.setsid()
        _die_with_parent()
        os.environ.update(HOME=str(scratch), TMPDIR=str(scratch))
        events = open(job["told"], "w", encoding="utf-8")  # noqa: SIM115
        inside.ask.questions(job["assignment"])
        limit(job["limits"])
        if not job["trust"]:
            lock(scratch)
        os.chdir(scratch)  # only now: a file of the submission could pass for one of our modules
        sys.path[:0] = [str(scratch)]
        os.write(tell_ready, b"1")
        _close_all_but(events.fileno())
        inside.run(job, inside.teller(events))
        status = 0
    except BaseException:
        traceback.print_exc()  # seen only while nothing of the submission has run
        raise
    finally:
        os._exit(status)


def _close_all_but(kept: int) -> None:
    """Close all open files, and let what is printed go nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(3, kept)
    os.closerange(kept + 1, 4096)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _wait(pid: int, job: dict) -> str | None:
    """Wait for a child; end it when it runs too long or fills the disk. Return why it ended early."""
    end = time.monotonic() + 2 * job["limits"]["seconds"]
    look, why = 0.0, None
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
        if time.monotonic() > end:
            why = "it ran too long"
        elif time.monotonic() > look:
            look = time.monotonic() + 0.5
            if _size(job["scratch"]) + _unlinked(pid) > job["limits"]["folder"]:
                why = "it wrote too many files"
        if why:
            os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(status)
    if not why and code == -signal.SIGXCPU:
        why = "it ran too long"
    return why or (f"it was ended by {_signal(code)}" if code else None)


def _signal(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _size(folder: str) -> int:
    """Return the bytes of all files in a folder, a block for each name; links are not followed."""
    total, folders = 0, [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    total += 4096 + entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return sys.maxsize  # too deep to be looked into
    return total


def _unlinked(pid: int) -> int:
    """Return the bytes of files that a process holds open without a name (Linux)."""
    total = 0
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{number}")
                total += status.st_blocks * 512 if status.st_nlink == 0 else 0
    return total


# --- the grader's side ----------------------------------------------------------------------------


class Sandbox:
    """A warm process that runs submissions, one at a time."""

    def __init__(self):
        self._process = None
        self._turn = threading.Lock()

    def run(self, job: dict) -> str | None:
        """Run a job; return why it ended early, or None.

        Raises:
            NoSandbox: something failed that no submission can bring about.
        """
        with self._turn:
            if self._process is None:
                if not job["trust"]:
                    check()
                self._process = self._start()
            try:
                self._process.stdin.write(json.dumps(job) + "\n")
                self._process.stdin.flush()
                told = json.loads(self._process.stdout.readline())
            except (OSError, ValueError):
                told = {"started": False}
            if told["started"]:
                return told["ended"]
            self.close()
        raise NoSandbox(
            "the process that runs submissions could not start; what it printed stands above. "
            "Nothing is lost: mend the cause and give the same command again"
        )

    def _start(self) -> subprocess.Popen:
        kept = {
            k: v for k, v in os.environ.items() if k in KEPT or k.startswith(("LC_", "OPENBLAS"))
        }
        ours = {"OMP_NUM_THREADS": "1", "MPLBACKEND": INLINE, "NORMLAB_PROGRESS": "0"}
        return subprocess.Popen(
            [sys.executable, "-c", "from grader.sandbox import serve; serve()"],
            cwd=COURSEWORK,
            env=kept | ours,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the warm process."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
