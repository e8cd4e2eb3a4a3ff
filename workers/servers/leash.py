"""Becomes another program that dies with the process that started it; run by path, never imported.

Arguments: parent's pid, signal on its death, oom_score_adj or ``-``, uid and gid or ``-``, then
the program and its arguments. A script of its own, since the parent may have threads: between
its fork and this script's start no code of ours runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent, death_signal, oom_score_adj, uid, gid, *program = arguments
    if oom_score_adj != "-":
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(oom_score_adj)  # lowering it needs a privilege that not everybody has
    if uid != "-":
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":  # after the change of user, which would clear it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("the process that asked for this one is gone")
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # an ignored signal would stay ignored after exec
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(program[0], program)  # noqa: S606 - fixed by our own callers


if __name__ == "__main__":
    main(sys.argv[1:])
