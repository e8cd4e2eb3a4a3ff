"""Where an embedded server lives and as whom it runs.

Neither server runs as root. When we are root, they run as an ordinary user, from a copy of
the wheel's binaries that this user can reach, with their data where it can reach it too: in
the folder that was asked for or, where that lies in a private home, below ``/var/lib/rsembed``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rsembed.core.errors import RSEmbedError
from workers.servers.children import ServerUser, processes_in

ORDINARY_USERS = ("rsembed", "postgres", "nobody")
RELOCATED = Path("/var/lib/rsembed")
MAX_SOCKET_FOLDER = 80  # of the 107 bytes of a socket's path
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


class ServerError(RSEmbedError):
    """An embedded server cannot be started or stopped; the message ends with its own last words."""

    error_class = "server"


@dataclass(frozen=True)
class ServerPlace:
    """The folder of a server's state, and the user as whom it runs (None: as we do)."""

    asked: Path
    folder: Path
    user: ServerUser | None

    def own(self, path: Path, *, mode: int = 0o700) -> Path:
        """Make the folder ``path`` below ours, the server's own."""
        path.mkdir(exist_ok=True)
        if self.user:
            os.chown(path, self.user.uid, self.user.gid)
        path.chmod(mode)
        return path

    def socket_folder(self) -> Path:
        """A folder of mode 0700 with a path short enough for sockets; the same at every start.

        Raises ServerError when somebody else holds its name in the temporary folder.
        """
        path = self.socket_path()
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            if self.user:
                os.chown(path, self.user.uid, self.user.gid)
        owner = self.user.uid if self.user else os.geteuid()
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise ServerError(f"{path} is not a private folder of ours; remove it, or point TMPDIR elsewhere.")
        return path

    def socket_path(self) -> Path:
        """Where `socket_folder` is."""
        inside = self.folder / "run"
        if len(os.fsencode(inside)) <= MAX_SOCKET_FOLDER:
            return inside
        name = hashlib.sha256(f"{os.geteuid()} {self.folder}".encode()).hexdigest()[:12]
        temporary = Path(tempfile.gettempdir())
        return (temporary if len(os.fsencode(temporary)) < MAX_SOCKET_FOLDER - 20 else Path("/tmp")) / f"rse-{name}"  # noqa: S108 - owner and mode are checked

    def binaries(self, source: Path, version: str, keep: Sequence[str]) -> Path:
        """The folder ``source``, or the copy of it that the server's user can run.

        ``keep`` names what the copy needs, relative to ``source``; ``version`` names the copy.
        """
        if self.user is None:
            return source
        copy = self.folder / f"binaries-{version}"
        if not copy.exists():
            fresh = Path(tempfile.mkdtemp(prefix="binaries.", dir=self.folder))
            for name in keep:
                target = fresh / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if (source / name).is_dir():
                    shutil.copytree(source / name, target)
                else:
                    shutil.copy2(source / name, target)
            for path in (fresh, *fresh.rglob("*")):
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            os.replace(fresh, copy)
        return copy

    def remove(self) -> None:
        """Delete everything that lies here; the server has to be stopped."""
        shutil.rmtree(self.socket_path(), ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.asked, ignore_errors=True)


def settle(asked: Path) -> ServerPlace:
    """Make ``asked`` (or, for root, its stand-in) ready for a server."""
    asked.mkdir(parents=True, exist_ok=True, mode=0o700)
    asked = asked.resolve()
    if os.geteuid() != 0:
        return ServerPlace(asked, asked, None)
    user = _ordinary_user()
    if _is_reachable(asked, user):
        asked.chmod(0o711)
        return ServerPlace(asked, asked, user)
    return ServerPlace(asked, _stand_in(asked), user)


def take_lock(folder: Path) -> IO[str]:
    """Hold ``folder`` for this process until the file is closed; ServerError when another has it."""
    file = (folder / "lock").open("a+", encoding="utf-8")
    end = time.monotonic() + 2.0  # a process that was just killed lets go in a moment
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(0.1)
                continue
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ServerError(f"{folder} is in use by {holder}; stop that one, or choose another folder.") from None
    file.truncate(0)
    file.write(f"process {os.getpid()}\n")
    file.flush()
    return file


def _ordinary_user() -> ServerUser:
    for name in ORDINARY_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return ServerUser(entry.pw_uid, entry.pw_gid, name)
    raise ServerError(
        f"Servers do not run as root, and there is no user {', '.join(ORDINARY_USERS)} here: "
        "run as an ordinary user, or make one of those."
    )


def _is_reachable(folder: Path, user: ServerUser) -> bool:
    """Whether ``user`` may pass through every folder above ``folder``."""
    for parent in folder.parents:
        found = parent.stat()
        bit = 0o100 if found.st_uid == user.uid else 0o010 if found.st_gid == user.gid else 0o001
        if not found.st_mode & bit:
            return False
    return True


def _stand_in(asked: Path) -> Path:
    """The folder that holds the state of ``asked``; each names the other, so neither is taken for a stranger's."""
    try:
        RELOCATED.mkdir(parents=True, exist_ok=True, mode=0o711)
    except OSError as exc:
        raise ServerError(
            f"{asked} cannot be reached by the ordinary user that runs servers for root, and {RELOCATED} "
            f"cannot be made ({exc}): set RSEMBED_HOME to a folder that everybody may pass through."
        ) from exc
    _remove_forsaken()
    pointer = asked / "moved"
    if pointer.exists():
        folder = Path(pointer.read_text(encoding="utf-8").strip())
        if folder.parent == RELOCATED and _origin(folder) == asked:
            return folder
    folder = RELOCATED / secrets.token_hex(6)
    folder.mkdir(mode=0o711)
    (folder / "origin").write_text(f"{asked}\n", encoding="utf-8")
    pointer.write_text(f"{folder}\n", encoding="utf-8")
    return folder


def _origin(folder: Path) -> Path | None:
    try:
        return Path((folder / "origin").read_text(encoding="utf-8").strip())
    except OSError:
        return None


def _remove_forsaken() -> None:
    """Delete stand-ins whose folder is gone or no longer names them, unless a server still runs there."""
    for folder in RELOCATED.iterdir():
        origin = _origin(folder)
        if origin is None:
            continue  # being made
        try:
            named = (origin / "moved").read_text(encoding="utf-8").strip()
        except OSError:
            named = ""
        parts = (folder, folder / "data")
        is_new = time.time() - folder.stat().st_mtime < 60
        if named != str(folder) and not is_new and not [pid for part in parts for pid in processes_in(part)]:
            shutil.rmtree(folder, ignore_errors=True)
