"""Files of a run: there whole or not at all, and where the weights lie."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from se_nas.core.errors import ConfigError
from se_nas.core.trial import Phase


@contextlib.contextmanager
def atomically(file: Path) -> Iterator[Path]:
    """A temporary path beside a file, which takes the file's place when the block ends without an error."""
    # The suffix stays last, since writers of figures read the format from it.
    temporary = file.with_name(f".{os.getpid()}-{_machine()}.{file.name}")
    with our_files():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(file)
            sync_folder(file.parent)
        finally:
            temporary.unlink(missing_ok=True)


def clear_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes of this machine left in a folder and in those right below it."""
    with contextlib.suppress(OSError):  # not ours to remove; another process is at it
        for file in [*folder.glob(".*"), *folder.glob("*/.*")]:
            found = _PART.match(file.name)
            if found and found["machine"] == _machine() and not runs(int(found["pid"])):
                file.unlink(missing_ok=True)


_PART = re.compile(r"\.(?P<pid>\d+)-(?P<machine>[0-9a-f]{8})\.")


def _machine() -> str:
    """What tells this machine from others that may write to the same folder."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def runs(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    if sys.platform == "win32":  # a signal would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextlib.contextmanager
def our_files() -> Iterator[None]:
    """Mark errors of the disk in this block as those of the run's own files: a user's code has such errors, too."""
    try:
        yield
    except OSError as error:
        error.of_the_run = True  # type: ignore[attr-defined]  # kept on the way from a worker to its driver
        raise


def is_ours(error: BaseException, folder: Path) -> bool:
    """Whether an error is of a file of the run: marked by `our_files`, or named below the run folder."""
    if not isinstance(error, OSError):
        return False
    names = [os.fsdecode(n) for n in (error.filename, error.filename2) if isinstance(n, str | bytes | os.PathLike)]
    return getattr(error, "of_the_run", False) or any(
        Path(name).absolute().is_relative_to(folder.absolute()) for name in names
    )


def sync_folder(folder: Path) -> None:
    """Have the names in a folder outlast a power cut: a renamed file is there, a removed one gone."""
    with contextlib.suppress(OSError):  # systems that open no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file in one piece."""
    with atomically(file) as temporary:
        temporary.write_bytes(content)


def weights_file(folder: Path, trial: int, phase: Phase = "search") -> Path:
    """Where a worker leaves the trained weights."""
    return folder / "weights" / f"{trial_name(trial, phase)}.safetensors"


def trial_name(trial: int, phase: Phase) -> str:
    """What files of a trial are named by: each phase counts its trials from 0."""
    return str(trial) if phase == "search" else f"{phase}-{trial}"


def user_path(given: str | Path) -> Path:
    """A path as a user gave it, with ``~`` as a home folder; ConfigError for what no file can be called."""
    text = str(given)
    if "\0" in text:
        raise ConfigError(f"{path_text(text)!r} cannot be the name of a file: it holds the character NUL")
    try:
        path = Path(text).expanduser()
        path.lstat()
    except RuntimeError as error:
        raise ConfigError(
            f"{path_text(text)!r} is in the home folder of a user who is not known",
            hint="~/ is your own, or give the whole path",
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(
                f"{path_text(text)!r} is too long for the name of a file ({len(text):,} characters)"
            ) from error
        # it need not be there
    except UnicodeError as error:  # half a character, which the system's encoding does not have
        raise ConfigError(f"{path_text(text)!r} cannot be the name of a file") from error
    return path


def path_text(path: Path | str) -> str:
    """A path or a name as text that can be printed and kept: bytes that are no UTF-8 as ``\\xe9``."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character
        return str(path).encode("utf-8", "backslashreplace").decode()
