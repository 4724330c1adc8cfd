"""Adapts an XMP packet to an image that is turned upright, enlarged, and written without the data
that its file had after the image.

Packets are changed as bytes, so that what is not understood stays as it was. Patterns take linear
time. Formats: XMP part 1 (ISO 16684-1), Google's Motion Photo, Ultra HDR, GDepth and Photo Sphere.
"""

from __future__ import annotations

import re

__all__ = ["orientation", "scaled", "sized", "upright", "without_lost_data"]

_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>))([1-8])(?=[\"'<])")
_SIZES = [re.compile(rb"((?:%s)(?:\s*=\s*[\"']|\s*>))\d{1,10}(?=[\"'<])" % names) for names in (
    rb"tiff:ImageWidth|exif:PixelXDimension", rb"tiff:ImageLength|exif:PixelYDimension")]
_NAME = rb"[A-Za-z_][\w.-]{0,99}"
_PREFIX = re.compile(rb"\bxmlns:(%s)\s{0,9}=\s{0,9}[\"']([^\"'<]{1,200})[\"']" % _NAME)
_MAX_PREFIXES = 4  # of one namespace; each costs a pass over the packet
_GOOGLE = b"http://ns.google.com/photos/1.0/"
_PANORAMA = _GOOGLE + b"panorama/"
_IN_PIXELS = (rb"(?:FullPano|CroppedAreaImage)(?:Width|Height)Pixels|CroppedArea(?:Left|Top)Pixels|"
              rb"LargestValidInteriorRect(?:Left|Top|Width|Height)")
# Properties that describe data outside the image: namespace, names, and what the data is.
_LOST = (
    (_GOOGLE + b"camera/", rb"(?:MotionPhoto|MicroVideo)\w*", "motion photo"),
    (_GOOGLE + b"container/", rb"Directory", "container"),
    (_GOOGLE + b"depthmap/", rb"\w+", "depth map"), (_GOOGLE + b"audio/", rb"\w+", "sound"),
    (_GOOGLE + b"image/", rb"\w+", "second image"),
    (b"http://ns.adobe.com/hdr-gain-map/1.0/", rb"\w+", "gain map"),
    (b"http://ns.apple.com/HDRGainMap/1.0/", rb"\w+", "gain map"),
    (b"http://ns.adobe.com/xmp/note/", rb"HasExtendedXMP", "extended XMP"))


def orientation(xmp: bytes) -> int | None:
    """The value of tiff:Orientation, from 1 to 8."""
    match = _ORIENTATION.search(xmp)
    return int(match[2]) if match else None


def upright(xmp: bytes) -> bytes:
    """The packet with orientation 1 and without thumbnails."""
    return _without_elements(_ORIENTATION.sub(rb"\g<1>1", xmp), rb"xmp:Thumbnails")


def sized(xmp: bytes, width: int, height: int) -> bytes:
    """The packet with the image's dimensions, where it has any, set to these."""
    for pattern, size in zip(_SIZES, (width, height)):
        xmp = pattern.sub(rb"\g<1>%d" % size, xmp)
    return xmp


def scaled(xmp: bytes, scale: float) -> bytes:
    """The packet with sizes and positions of a panorama (GPano) multiplied by ``scale``."""
    for prefix in _prefixes(xmp).get(_PANORAMA, ()):
        xmp = re.sub(rb"(\b%s:(?:%s)(?:\s{0,9}=\s{0,9}[\"']|\s{0,9}>))(\d{1,9})(?=[\"'<])"
                     % (re.escape(prefix), _IN_PIXELS),
                     lambda match: match[1] + b"%d" % round(int(match[2]) * scale), xmp)
    return xmp


def without_lost_data(xmp: bytes) -> tuple[bytes, list[str]]:
    """The packet without properties of data that the file had outside the image (a motion photo's
    video, a gain map, ...), and what these data are."""
    prefixes, lost = _prefixes(xmp), []
    for namespace, names, what in _LOST:
        for prefix in prefixes.get(namespace, ()):
            name = rb"%s:%s" % (re.escape(prefix), names)
            changed = re.sub(rb"\s%s\s{0,9}=\s{0,9}(?:\"[^\"<]*\"|'[^'<]*')" % name, b"", xmp)
            changed = _without_elements(changed, name)
            if changed != xmp and what not in lost:
                lost.append(what)
            xmp = changed
    return xmp, [what for what in lost if what != "container" or len(lost) == 1]


def _prefixes(xmp: bytes) -> dict[bytes, set[bytes]]:
    """Namespace -> the prefixes that are declared for it."""
    found: dict[bytes, set[bytes]] = {}
    for match in _PREFIX.finditer(xmp):
        prefixes = found.setdefault(match[2], set())
        if len(prefixes) < _MAX_PREFIXES:
            prefixes.add(match[1])
    return found


def _without_elements(xmp: bytes, name: bytes) -> bytes:
    """Without the elements whose name the pattern ``name`` matches."""
    start = re.compile(rb"<(%s)(?=[\s/>])[^<>]*>" % name)
    kept, position = [], 0
    while match := start.search(xmp, position):
        stop = match.end()
        if not match[0].endswith(b"/>"):
            end = xmp.find(b"</%s" % match[1], stop)
            stop = xmp.find(b">", end) + 1 if end >= 0 else 0
            if not stop:
                break  # it never ends
        kept.append(xmp[position:match.start()])
        position = stop
    return b"".join(kept) + xmp[position:]
