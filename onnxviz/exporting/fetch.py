"""Bringing a network of the catalogue onto this machine: downloaded and checked, or exported here.

What is downloaded is compared with the SHA-256 that the catalogue holds; the others are made from the weights of a
Python package.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxviz.catalogue import Entry, cache_folder, entry, resolve
from onnxviz.errors import InputRefused, ModelRejected
from onnxviz.exporting.export import export
from onnxviz.files import write_atomic
from onnxviz.progress import Progress, silent

# Refuse to go on past this where the catalogue does not know a file's size: far over any network listed.
_LARGEST_DOWNLOAD = 4 << 30
_TIMEOUT = 30.0
_CHUNK = 1 << 20


def fetch(name: str, *, force: bool = False, progress: Progress = silent) -> Path:
    """Bring a network of the catalogue onto this machine, and give its path.

    name       its name
    force      fetch it again even if it is here
    progress   called while it downloads

    The file appears whole and, where its SHA-256 is known, checked; or not at all.

    raises   UsageError for an unknown name; ModelRejected when what came is not the file that is expected;
             InputRefused when it cannot be downloaded; OutputRefused when it cannot be written;
             MissingDependency when it has to be exported and a package is missing
    """
    found = entry(name)
    if found.path is not None and (found.get == "bundled" or not force):
        return found.path
    if found.get == "bundled":
        return resolve(name)  # says that it is missing
    target = cache_folder() / found.file
    if found.get == "export":
        known: dict[str, Any] = {
            name: getattr(found, name) for name in ("preprocessing", "labels", "licence")
        }
        options = {"weights": found.weights} if found.weights else {}
        size = tuple(found.preprocessing["size"])
        return export(str(found.export), target, options=options, size=size, **known).path
    failures = []
    for url in found.urls:
        try:
            return _download_from(url, found, target, progress)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
    raise InputRefused(
        f"{found.name!r} could not be downloaded: {'; '.join(failures)}. "
        f"Check the connection, or put the file at {str(target)!r} yourself"
    )


def _download_from(url: str, found: Entry, target: Path, progress: Progress) -> Path:
    request = urllib.request.Request(url, headers={"User-Agent": "onnxviz"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
        return write_atomic(target, _checked(answer, url, found, progress))


def _checked(answer: Any, url: str, found: Entry, progress: Progress) -> Iterator[bytes]:
    """What the server gives, piece by piece; an error at its end, before it is put in place, if it is not the file."""
    digest, size = hashlib.sha256(), 0
    limit = found.size if found.sha256 is not None else _LARGEST_DOWNLOAD
    while chunk := answer.read(_CHUNK):
        size += len(chunk)
        if size > limit:
            break  # not the file that is meant, as is said below
        digest.update(chunk)
        yield chunk
        progress(size, found.size, f"downloading {found.name}")
    if found.sha256 is not None and (digest.hexdigest() != found.sha256 or size != found.size):
        raise ModelRejected(
            f"what {url} gave is not {found.name!r}: {size} bytes with SHA-256 {digest.hexdigest()}, expected "
            f"{found.size} bytes with {found.sha256}; nothing was kept"
        )
