"""The parts beside the pixels that every container gets, and the error that refuses a file."""

from __future__ import annotations

from dataclasses import dataclass


class CannotRewrap(Exception):
    """Something in the file is not as expected. It never leaves this package."""


@dataclass(frozen=True)
class Beside:
    """The parts beside the pixels in the new file."""

    size_px: tuple[int, int]  # (width, height) as stored, before orientation
    xmp: bytes | None = None
    exif: bytes | None = None  # begins with "Exif\0\0"
    dpi: tuple[float, float] | None = None
    profile: bytes | None = None

    @property
    def tiff(self) -> bytes | None:
        """Return the EXIF as every container but JPEG holds it."""
        return self.exif.removeprefix(b"Exif\0\0") if self.exif else None
