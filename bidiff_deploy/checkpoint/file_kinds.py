"""What a file is that has the name of a checkpoint and is none."""

from __future__ import annotations

import stat
from pathlib import Path

from ..errors import CheckpointError

__all__ = ["check_file"]

MAX_BYTES = 4 << 30
_HEAD = 1024
_TEXT = bytes([9, 10, 13, *range(32, 127)])
_ARCHIVES = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z",
             b"Rar!": "rar", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_OTHERS = {b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a numpy file", b"\x89PNG": "an image",
           b"\xff\xd8\xff": "an image", b"%PDF": "a PDF", b"GGUF": "a GGUF file"}


def check_file(path: Path) -> int:
    """The file's size. Raises CheckpointError, with what it is and the remedy, for a path that is
    no regular file, and for content that is no checkpoint: pointers of Git LFS, DVC and git-annex,
    web pages, other archives, and a format that belongs to another ending."""
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise CheckpointError(f"{path} is a folder; give the checkpoint file inside it")
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{path} is not a regular file; give a checkpoint file")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {_reason(path, error)}") from None
    if found.st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download the checkpoint again")
    if found.st_size > MAX_BYTES:
        raise CheckpointError(f"{path} has {found.st_size >> 20} MiB, more than the "
                              f"{MAX_BYTES >> 20} MiB a checkpoint may have")
    if what := _other_content(path, head):
        raise CheckpointError(f"{path} is {what}")
    return found.st_size


def _reason(path: Path, error: Exception) -> str:
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        return "it is a link to a file that is absent; fetch that with the tool that made the " \
               "link (git annex get, dvc pull), or copy with cp -rL"
    return f"{getattr(error, 'strerror', None) or error}; check the path"


def _other_content(path: Path, head: bytes) -> str | None:
    """What the file is, and the remedy; None if it may be a checkpoint."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://") and b"oid sha256:" in text:
        return "a pointer of Git LFS, not the checkpoint; run `git lfs pull`, or download the file"
    if b"annex/objects/" in text[:300] and len(head) < 500:
        return "a pointer of git-annex, not the checkpoint; run `git annex get`"
    if text.startswith(b"outs:") and b"md5:" in text:
        return "a pointer of DVC, not the checkpoint; run `dvc pull`"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"<error", b"<body")):
        return ("a web page, not the checkpoint; download it again from the link of the file "
                "itself, after signing in if the site asks for it")
    if head and not head.translate(None, _TEXT):
        return "a text, such as a site's error message, not the checkpoint; download it again"
    for start, name in _ARCHIVES.items():
        if head.startswith(start):
            return f"a {name} archive; unpack it and give the checkpoint inside it"
    for start, name in _OTHERS.items():
        if head.startswith(start):
            return f"{name}, not a checkpoint; give a state dict in .pth or .safetensors"
    safetensors = len(head) > 9 and head[8:9] == b"{" and not any(head[4:8])
    if path.suffix.lower() == ".safetensors":
        if head.startswith((b"PK\3\4", b"\x80\x02\x8a\x0a")):
            return "a file that torch wrote; rename it to end in .pth"
    elif safetensors:
        return "in the format of safetensors; rename it to end in .safetensors"
    return None
