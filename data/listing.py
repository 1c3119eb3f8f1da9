"""Lists the files of a folder, or of zips, and notes the name of everything that is left out."""

import contextlib
import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from data.errors import DataError, printable
from data.images import OTHERS, load_image, other_kind, starts_as_image

# Those of torchvision.datasets.folder (tested); importing it takes seconds in every worker.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SPLITS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SPLIT_ORDER = ("train", "val", "test")
LAYOUT = "train/<class>/*.jpg beside val/ or test/, or one folder per class"
UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)  # also in a zip
NAMED = 5  # names listed in a note; the others are counted

# Why something is left out: the start of a note, before the names.
NO_CLASS = "left out, not in a class folder with images"
NO_FILE = "left out, a link that is broken or circular, or not a regular file"
HIDDEN = "left out, hidden or of the system"
BY_CONTENT = "read by content, not named .jpg, .png ..."
# Folders and files of operating systems and NAS devices: thumbnails, indexes, deleted files.
SYSTEM = (
    "__macosx", "@eadir", "#recycle", "@recycle", "@recently-snapshot", "#snapshot", "@tmp",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "thumbs.db",
    "ehthumbs.db", "desktop.ini", "icon\r", "thumbs", "thumbnails", "_thumbnails", "@__thumb",
)  # fmt: skip


class Listing:
    """The folders and files of one root. Names are relative to it, with slashes on every system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: list[str] = []  # sentences: what was taken for what
        self.notes: defaultdict[str, set[str]] = defaultdict(set)  # reason -> names
        self.inside: defaultdict[str, set[str]] = defaultdict(set)  # folder -> names in it
        self.read: set[Path] = set()  # the real paths of folders
        self.walk()

    def walk(self, folder: str = "") -> None:
        """Find every folder and file. Links are followed; each real folder is read once."""
        path = self.root / folder
        real = Path(os.path.realpath(path))
        # A link to "/" would add the whole disk.
        if folder and (real in self.read or self.root.resolve().is_relative_to(real)):
            self.notes[NO_FILE].add(folder)
            return
        self.read.add(real)
        self.inside[folder] = set()
        self.add(folder)
        try:
            with os.scandir(path) as scanned:
                # Links last, so that a folder is read itself and the link to it is noted.
                entries = sorted(scanned, key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError as error:
            what = f"cannot list a folder: {error.strerror}"
            fix = f"give a readable folder with {LAYOUT}"
            fix += "; unpack an archive first" * path.is_file()
            raise DataError(what, path.absolute(), fix) from error
        for entry in entries:
            name = f"{folder}/{entry.name}".lstrip("/")
            if hidden(entry.name):
                self.notes[HIDDEN].add(name)
            elif os.path.isdir(entry):  # noqa: PTH112  Path's can raise
                self.walk(name)
            elif os.path.isfile(entry):  # noqa: PTH113
                self.add(name)
            else:
                self.notes[NO_FILE].add(name)

    def add(self, name: str) -> None:
        """Add a file or folder, and the folders that it is in."""
        while name:
            self.inside[parent(name)].add(name)
            name = parent(name)

    def sentences(self) -> tuple[str, ...]:
        """What was taken; and a note per reason, "left out, a copy of another image (1): a.jpg"."""
        notes = sorted(self.notes.items(), reverse=True)
        left = (f"{why} ({len(names):,}): {some(names)}" for why, names in notes if names)
        return (*map(printable, self.taken), *left)

    def error(self, what: str, fix: str) -> DataError:
        """A DataError about the root."""
        return DataError(what, self.root.absolute(), fix)

    def advice(self, fix: str) -> str:
        """What to do with the files that were left out, if their kind is known; else `fix`."""
        return next((what for _, kind, what in OTHERS if f"left out, {kind}" in self.notes), fix)

    def entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Folders and files in one folder ("" is the root), sorted by name."""
        names = sorted(self.inside[folder])
        return [n for n in names if n in self.inside], [n for n in names if n not in self.inside]

    def files(self, folder: str) -> list[str]:
        """Every file at any depth below `folder`, sorted."""
        folders, files = self.entries(folder)
        for inner in folders:
            files += self.files(inner)
        return sorted(files, key=by_folder)

    def images(self, folder: str) -> list[str]:
        """The images at any depth below a class folder; everything else is noted."""
        images = []
        for name in self.files(folder):
            why = "" if is_image(name) else self.kind(name)
            if why:
                self.notes[why].add(name)
            if why in ("", BY_CONTENT):
                images.append(name)
        if folder and not images:
            self.notes[NO_CLASS].add(folder)
        return images

    def kind(self, name: str) -> str:
        """The note about a file that is not named as an image: its first bytes show its kind."""
        start = b""
        with contextlib.suppress(*UNREADABLE), self.open(name) as file:
            start = file.read(64)
        if starts_as_image(start, name):
            return BY_CONTENT
        other = other_kind(start)
        return f"left out, {other[0]}" if other else "left out, not .jpg, .png ..."

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.root / name).stat().st_size

    def open(self, name: str) -> Any:
        """Open a file to read its bytes."""
        return (self.root / name).open("rb")

    def load(self, name: str) -> Tensor:
        """Decode an image: uint8 (3, H, W)."""
        return load_image(self.root / name)


class ZipListing(Listing):
    """Zips, read as if unpacked into one folder.

    Of train.zip and test.zip without train/ and test/, each is read as a folder of its name.
    """

    def __init__(self, root: Path, zips: Sequence[Path]) -> None:
        self.zips = zips
        self.members: dict[str, tuple[zipfile.ZipFile, zipfile.ZipInfo]] = {}
        super().__init__(root)

    def walk(self, folder: str = "") -> None:
        """Find every file, and the folders in the names of files."""
        named = {"train"} < {split_in(path.stem)[0] for path in self.zips} - {None}
        for path in self.zips:
            try:
                archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise zip_error(error, path) from error
            for info in archive.infolist():
                place = PurePosixPath(info.filename)
                if named and not any(part.lower() in SPLITS for part in place.parts[:-1]):
                    place = path.stem / place
                    self.notes["taken as a split, the name of a zip"].add(path.stem)
                name = place.as_posix()
                if any(map(hidden, place.parts)):
                    self.notes[HIDDEN].add(name)
                elif name in self.members:
                    fix = "unpack the zips into different folders, and give one with all images"
                    raise self.error(f"the zips hold several files of one name: {name}", fix)
                elif not info.is_dir():
                    self.members[name] = archive, info
                    self.add(name)

    def size(self, name: str) -> int:
        """Bytes of a file, unpacked."""
        return self.members[name][1].file_size

    def open(self, name: str) -> Any:
        """Open a file to read its bytes."""
        archive, info = self.members[name]
        return archive.open(info.filename)  # by name, which error messages then contain

    def load(self, name: str) -> Tensor:
        """Decode an image: uint8 (3, H, W)."""
        archive, info = self.members[name]
        where = f"{archive.filename}: {info.filename}"
        try:
            with self.open(name) as file:
                return load_image(file, where)
        except UNREADABLE as error:
            raise zip_error(error, where) from error


def parent(name: str) -> str:
    """The folder that a file or folder is in; "" is the root."""
    return name.rpartition("/")[0]


def split_in(folder: str) -> tuple[str | None, tuple[str, ...]]:
    """The split that one word of a folder's name says, and the others: seg_train: train, (seg, _).

    The split is None if no word says one, or if several do.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_]+", folder.rpartition("/")[2])
    found = [SPLITS[word.lower()] for word in words if word.lower() in SPLITS]
    others = tuple("_" if word.lower() in SPLITS else word.lower() for word in words)
    return (found[0] if len(found) == 1 else None), others if len(others) > 1 else ()


def zip_error(error: Exception, where: object) -> DataError:
    """A DataError about a zip, or a file in one, that cannot be read."""
    fix = "give a folder or a zip that you may read; if this is one, copy or download it again"
    return DataError(f"cannot read a zip: {getattr(error, 'strerror', None) or error}", where, fix)


def listing_of(root: Path) -> Listing:
    """List a zip, the zips in a folder without unpacked images, or a folder."""
    if root.is_file():
        return ZipListing(root, [root])
    listing = Listing(root)
    zips = [root / name for name in listing.entries("")[1] if name.lower().endswith(".zip")]
    # Zips beside their unpacked content would count every image twice.
    unpacked = any(map(is_image, listing.files("")))
    return ZipListing(root, zips) if zips and not unpacked else listing


def readable(folder: Path) -> Path:
    """Return `folder`; DataError if it cannot be listed, which would silently omit its files."""
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        fix = "make it readable (its owner: chmod -R u+rX), or move it elsewhere"
        raise DataError("cannot read a folder: Permission denied", folder, fix)
    return folder


def hidden(name: str) -> bool:
    """True if a file or folder is hidden or in SYSTEM, judging by its own name (no slashes)."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """True if the name has one of EXTENSIONS."""
    return name.lower().endswith(EXTENSIONS)


def by_folder(name: str) -> list[str]:
    """Sort key by folder, then file: "ant/2" comes before "ant b/1", as "ant" before "ant b"."""
    return name.split("/")


def some(names: Iterable[str]) -> str:
    """The first NAMED names in order, and how many more there are."""
    first = sorted(names)
    more = f" and {len(first) - NAMED:,} more" if len(first) > NAMED else ""
    return ", ".join(map(printable, first[:NAMED])) + more
