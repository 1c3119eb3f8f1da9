"""Images by index, decoded at each use; and all of them in order, decoded in worker processes.

`images[i]` is a uint8 tensor (3, H, W). A tensor (N, 3, H, W) satisfies this protocol too.
"""

import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from signal import SIGINT
from typing import Any, Protocol

from torch import Tensor
from torch.utils.data import DataLoader

from data.errors import DataError
from data.images import load_image
from data.processes import shielded_from
from data.progress import Progress

Form = Callable[[Tensor], Tensor]  # maps a decoded image, uint8 (3, H, W) -> (3, h, w)


class Images(Protocol):
    """N images by index: each uint8 (3, H, W)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensor: ...


@dataclass(frozen=True)
class DecodedOnUse:
    """`form` of each image, computed each time it is used: images of files, or other images."""

    files: Sequence[str] | Images
    form: Callable[[Tensor], Any]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        image = self.files[index]
        return self.form(load_image(image) if isinstance(image, str) else image)


def size_of(image: Tensor) -> tuple[int, int]:
    """Height and width in pixels, upright: a result that workers can send cheaply."""
    return image.shape[1], image.shape[2]


def decode_all(images: Images, workers: int, title: str = "decoding") -> Generator[Any]:
    """Yield each of `images` in order, or the DataError that says why it cannot be decoded.

    Decodes in `workers` processes (0: in this one).
    """
    # In place of DataLoader's own function, which would turn numbers into tensors.
    attempt = partial(image_or_error, images)
    arriving = loaded(range(len(images)), workers, batch_size=None, collate_fn=attempt)
    yield from Progress(arriving, title, len(images), delay=1)


def image_or_error(images: Images, index: int) -> Any:
    """One of the images, or the DataError that says why it cannot be decoded."""
    try:
        return images[index]
    except DataError as error:
        return error


def loaded(dataset: Any, workers: int, **options: Any) -> Iterator[Any]:
    """What a DataLoader with `options` yields; Ctrl-C does not reach its worker processes."""
    with shielded_from(SIGINT):
        return iter(DataLoader(dataset, num_workers=workers, worker_init_fn=quiet, **options))


def quiet(worker: int) -> None:
    """Print no traceback of a worker's threads, which find the parent gone after Ctrl-C.

    Errors of the worker itself reach the parent in another way.
    """
    sys.excepthook = lambda *_: None
