"""Names the kind of a file that is not one of PyTorch's weights, for error messages."""

import contextlib
import io
import re
import tomllib
import zipfile
from pathlib import Path

KINDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))


def kind_of(content: bytes) -> tuple[str, str] | None:
    """What the file is, and what to do; None if it is of no known kind."""
    if content.startswith(b"PK\x03\x04"):
        # zipfile raises many kinds of exceptions on a damaged archive.
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            for pattern, kind, fix in KINDS["archives"]:
                if any(re.fullmatch(pattern, name) for name in names):
                    return kind, fix
            pickle = next(name for name in names if name.endswith("/data.pkl"))
            with archive.open(pickle) as file:
                content = file.read(2)
    for beginning, kind, fix in KINDS["files"]:
        if re.match(beginning.encode(), content[:512], re.DOTALL | re.IGNORECASE):
            return kind, fix
    return None
