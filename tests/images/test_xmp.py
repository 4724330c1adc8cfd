"""XMP loses properties of data that is gone, and sizes in pixels follow the image."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as pillow

from bidiff_deploy.images import xmp
from bidiff_deploy.images.read import read_image

HEAD = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
        b'xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" '
        b'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
        b'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" '
        b'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" '
        b"xmlns:note='http://ns.adobe.com/xmp/note/' "
        b'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"')
TAIL = b"</rdf:Description></rdf:RDF></x:xmpmeta>"
DIRECTORY = (b'<Container:Directory><rdf:Seq><rdf:li><Container:Item Item:Mime="image/jpeg"/>'
             b'</rdf:li></rdf:Seq></Container:Directory>')


@pytest.mark.parametrize(("attributes", "elements", "what"), [
    (b' GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion=\'1\'', b"", ["motion photo"]),
    (b"", b"<GCamera:MicroVideo>1</GCamera:MicroVideo><GCamera:MicroVideoOffset\n>5"
     b"</GCamera:MicroVideoOffset>", ["motion photo"]),
    (b' hdrgm:Version="1.0"', DIRECTORY, ["gain map"]),
    (b"", b"<hdrgm:GainMapMax><rdf:Seq><rdf:li>1</rdf:li></rdf:Seq></hdrgm:GainMapMax>"
     b"<hdrgm:Version/>", ["gain map"]),
    (b' note:HasExtendedXMP="0123"', b"", ["extended XMP"]),
    (b"", DIRECTORY, ["container"]),
])
def test_marks_of_lost_data(attributes: bytes, elements: bytes, what: list[str]) -> None:
    kept = b' GCamera:BurstID="7">' + b"<dc:title>A roof</dc:title>"
    found, lost = xmp.without_lost_data(HEAD + attributes + kept + elements + TAIL)
    assert found == HEAD + kept + TAIL and lost == what


def test_other_prefixes_and_equal_names_elsewhere() -> None:
    packet = (b'<rdf:RDF xmlns:c="http://ns.google.com/photos/1.0/camera/" '
              b'xmlns:GCamera="https://example.org/" c:MotionPhoto="1" GCamera:MotionPhoto="2"/>')
    found, lost = xmp.without_lost_data(packet)
    assert found == packet.replace(b' c:MotionPhoto="1"', b"") and lost == ["motion photo"]


def test_sizes_of_a_panorama() -> None:
    packet = (HEAD + b' GPano:FullPanoWidthPixels="400" GPano:CroppedAreaTopPixels = \'7\''
              b' GPano:PoseHeadingDegrees="90">'
              b"<GPano:CroppedAreaImageHeightPixels>33</GPano:CroppedAreaImageHeightPixels>" + TAIL)
    expected = packet.replace(b'"400"', b'"1600"').replace(b"'7'", b"'28'").replace(
        b">33<", b">132<")
    assert xmp.scaled(packet, 4) == expected


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_files_with_such_marks(tmp_path: Path, name: str) -> None:
    packet = HEAD + b' GCamera:MotionPhoto="1" GPano:FullPanoWidthPixels="10">' + TAIL
    pillow.new("RGB", (5, 4)).save(tmp_path / name, xmp=packet)
    if name == "a.jpg":
        with open(tmp_path / name, "ab") as file:
            file.write(b"the video")
    image = read_image(tmp_path / name)
    (note,) = image.metadata.dropped
    assert note.startswith("its motion photo is not kept")
    assert b"MotionPhoto" not in image.metadata.xmp
    larger = image.enlarged(np.zeros((3, 12, 15), np.float32), 3)
    assert re.search(rb'FullPanoWidthPixels="30"', larger.metadata.xmp)


@pytest.mark.parametrize("piece", [b"<hdrgm:a ", b' hdrgm:a="', b"<hdrgm:a>", b" xmlns:hdrgm='",
                                   b' xmlns:a%d="http://ns.adobe.com/hdr-gain-map/1.0/"'])
def test_hostile_packets_take_linear_time(piece: bytes) -> None:
    def seconds(count: int) -> float:
        packet = HEAD + b"".join(piece.replace(b"%d", b"%d" % i) for i in range(count)) + TAIL
        started = time.process_time()
        xmp.without_lost_data(packet)
        return time.process_time() - started

    seconds(1000)
    assert seconds(40_000) < 40 * seconds(4000) + 0.5
