"""Pictures of a report that wait on the disk: a page of thousands of photos takes no memory for them."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any


class Spool:
    """A temporary file of many pieces, gone when nobody holds one of them any more."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="onnxviz-")  # noqa: SIM115 - closed when the spool goes
        weakref.finalize(self, self.file.close)

    def add(self, data: bytes) -> Stored | bytes:
        """The piece as it is read again; itself where the disk is full."""
        try:
            place = self.file.seek(0, os.SEEK_END)
            self.file.write(data)
            self.file.flush()
        except OSError:
            return data
        return Stored(self, place, len(data))


class Stored:
    """Bytes that are read when they are needed: `bytes(one)`, or in pieces, as `FileSet.add` takes them."""

    def __init__(self, spool: Spool, place: int, length: int) -> None:
        self._spool, self._place, self._length = spool, place, length

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        self._spool.file.seek(self._place)
        return self._spool.file.read(self._length)

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(self)

    def __reduce__(self) -> Any:
        return bytes, (bytes(self),)
