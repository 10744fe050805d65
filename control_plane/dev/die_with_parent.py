"""A launcher that ties a program's life to that of the process that started it.

    python -I -S die_with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]

The kernel is asked to kill this process when its parent ends, however it ends; then it
becomes PROGRAM by exec, which keeps both that request and the process id. It is a file of its own,
run by path, because the other way (`preexec_fn`) runs Python between fork and exec, which can
deadlock in a process with threads. It costs about 20 ms.

The kernel counts the *thread* that started the child as the parent: start children from the main
thread, never from a pool's.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
EXIT_NOT_FOUND = 127  # what a shell says when a program is missing


def tied(command: Sequence[str]) -> list[str]:
    """The command that runs `command` so that it is killed (SIGKILL) when this process ends.

    Call it in the process that will start it: `subprocess.Popen(tied([...]))`.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def die_with(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Asks the kernel to send `signal_number` to this process when its parent ends.

    Ends the process at once when the parent, `parent_pid`, is already gone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(code)}; Linux is needed")
    if os.getppid() != parent_pid:  # it ended before the kernel was asked
        sys.exit(0)


def main() -> None:
    if len(sys.argv) < 3 or not sys.argv[1].isdecimal():
        sys.exit("usage: die_with_parent.py PARENT_PID PROGRAM [ARGUMENT ...]")
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    die_with(parent_pid)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}; check that it is installed\n")
        sys.exit(EXIT_NOT_FOUND)


if __name__ == "__main__":
    main()
