"""Names the kind of a file that is not one of PyTorch's weights, for error messages."""

import contextlib
import io
import re
import zipfile

CONVERT = "convert it to PyTorch first: timm and transformers have scripts for many networks"
SAVE = "save the weights alone, with the default protocol: torch.save(model.state_dict(), PATH)"
ITSELF = "give the .pth or .safetensors file itself"

KINDS = (  # how the file begins, what it is, what to do
    (rb"\x93NUMPY", "a NumPy array", CONVERT),
    (rb"\x89HDF", "an HDF5 file, as Keras writes", CONVERT),
    (rb"GGUF", "a GGUF file of quantised weights", "get the original weights"),
    (rb"\x08[\x01-\x0f]\x12", "an ONNX network", "give the weights that it was exported from"),
    (rb"\x80[\x03-\x05]", "a pickle that torch.save did not write with its defaults", SAVE),
    (rb"\x1f\x8b|BZh|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed archive", "unpack it first"),
    (rb".{257}ustar", "a tar archive", "unpack it first"),
    (rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP|BM|.{4}ftyp", "an image or a video", ITSELF),
    (rb"%PDF", "a PDF document", ITSELF),
    (rb"version https://git-lfs", "a pointer of Git LFS", "run git lfs pull"),
    (rb"\s*(<!doctype|<html|<\?xml)", "a web page", "download the file, not the page about it"),
    (rb"\s*[{\[]", "JSON text", "give the folder that it is in, or the file of weights beside it"),
)  # fmt: skip
INSIDE = (  # a file in a zip archive, what the archive is, what to do
    (r".*\.npy", "a NumPy archive, as of JAX weights", CONVERT),
    (r"model\.weights\.h5", "a Keras network", CONVERT),
    (r".*\.(pth?|th|ckpt|safetensors|bin)", "an archive of files", "unpack it first"),
)


def kind_of(content: bytes) -> tuple[str, str] | None:
    """What the file is, and what to do; None if it is of no known kind."""
    if content.startswith(b"PK\x03\x04"):
        # zipfile raises many kinds of exceptions on a damaged archive.
        with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            for pattern, kind, fix in INSIDE:
                if any(re.fullmatch(pattern, name) for name in names):
                    return kind, fix
            pickle = next(name for name in names if name.endswith("/data.pkl"))
            with archive.open(pickle) as file:
                content = file.read(2)
    for beginning, kind, fix in KINDS:
        if re.match(beginning, content[:512], re.DOTALL | re.IGNORECASE):
            return kind, fix
    return None
