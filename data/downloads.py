"""Datasets by name: downloaded once into cache/, unpacked, and checked by SHA-256."""

import hashlib
import shutil
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from filelock import FileLock

from data.errors import DataError
from data.progress import Progress

CACHE = Path("cache")
TIMEOUT = 30  # seconds without an answer
CHUNK = 2**20  # bytes
# What urllib and zipfile raise for answers that are cut, damaged, encrypted, or not HTTP.
BROKEN = (OSError, HTTPException, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error)


@dataclass(frozen=True)
class Archive:
    """A zip with one folder, which holds train/CLASS/IMAGE and val/CLASS/IMAGE."""

    url: str
    folder: str
    sha256: str  # of the names and bytes of all images, however they are packed


ARCHIVES = {
    "hymenoptera": Archive(  # 245 and 153 photos of ants and bees, for PyTorch's tutorial
        "https://download.pytorch.org/tutorial/hymenoptera_data.zip",
        "hymenoptera_data",
        "c415c930edc58a3d84c6f6b2c058ca7ea03038a196f05330aa86b3249cf557b7",
    ),
}


def folder_of(data: str) -> Path:
    """The folder that `data` names: a path, or one of ARCHIVES, downloaded if it is not here yet.

    A folder of that name in the current folder is preferred. Raises DataError if that fails.
    """
    if data not in ARCHIVES or Path(data).is_dir():
        return Path(data)
    archive = ARCHIVES[data]
    folder = CACHE / archive.folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f".{data}.lock"):  # one process downloads, the others wait
        if not folder.is_dir():
            try:
                download(data, archive, folder)
            except DataError:
                raise
            except BROKEN as error:
                fix = f"try again, or download it yourself, and unpack it into {CACHE.absolute()}"
                raise DataError(f"cannot download {data}: {error}", archive.url, fix) from error
    return folder


def download(name: str, archive: Archive, folder: Path) -> None:
    """Download and unpack; `folder` appears once all of it is right."""
    with TemporaryDirectory(dir=CACHE, prefix=f"{name}-") as beside:
        packed, unpacked = Path(beside) / "archive.zip", Path(beside) / archive.folder
        answer = urllib.request.urlopen(archive.url, timeout=TIMEOUT)
        with answer, packed.open("wb") as out:
            size = int(answer.headers.get("Content-Length") or 0) or None
            title, how = f"downloading {name}", {"unit": "B", "unit_scale": True}
            with Progress(desc=title, total=size, **how) as bar:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    bar.update(len(chunk))
        with ZipFile(packed) as archived:
            archived.extractall(beside)  # names cannot lead out of this folder
        if checksum_of(unpacked) != archive.sha256:
            fix = "try again; if the images have changed for good, download them yourself"
            raise DataError(f"the images of {name} are not the expected ones", archive.url, fix)
        shutil.move(unpacked, folder)


def checksum_of(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files SPLIT/CLASS/IMAGE, sorted by name."""
    whole = hashlib.sha256()
    for name, path in sorted((p.relative_to(folder).as_posix(), p) for p in folder.glob("*/*/*")):
        whole.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()
