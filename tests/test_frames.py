"""Frames on disk: Pillow's pixels, and files that are missing or broken."""
import io
import tracemalloc

import numpy as np
import pytest
from conftest import make_frames
from PIL import Image

from datasets.annotation import Video
from datasets.frames import check_frames, frame_name, frame_size, read_frame
from opts import UserError


def jpg_bytes(mode="RGB", **options):
    """Encode a smooth colour picture of odd size, so that subsampled chroma has an edge."""
    y, x = np.mgrid[:61, :83]
    rgb = np.stack([3 * x, 4 * y, 255 * ((x // 7 + y // 5) % 2)], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "mode, options",
    [
        ("RGB", {"quality": 80}),
        ("RGB", {"quality": 30, "subsampling": "4:2:0"}),
        ("RGB", {"quality": 95, "subsampling": "4:2:2"}),
        ("RGB", {"quality": 95, "subsampling": "4:4:4"}),
        ("RGB", {"quality": 80, "progressive": True}),
        ("L", {"quality": 80}),
    ],
)
def test_a_frame_has_pillows_pixels(tmp_path, mode, options):
    path = tmp_path / "image_00001.jpg"
    path.write_bytes(jpg_bytes(mode, **options))
    frame = read_frame(path)
    assert frame.dtype == np.uint8
    np.testing.assert_array_equal(frame, np.asarray(Image.open(path).convert("RGB")))


def test_real_frames_have_pillows_pixels(reference_path):
    for path in sorted(reference_path.glob("frames/*/image_0005*.jpg")):
        np.testing.assert_array_equal(read_frame(path), np.asarray(Image.open(path).convert("RGB")))


def png_bytes():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no picture at all\n", png_bytes(), jpg_bytes()[:10], jpg_bytes()[: len(jpg_bytes()) // 2],
     jpg_bytes()[:-40]],
    ids=["empty", "text", "png", "only a header", "half", "all but its end"],
)  # fmt: skip
def test_a_file_that_is_no_whole_jpg_is_named(tmp_path, content):
    path = tmp_path / "image_00001.jpg"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_frame(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_jpg_of_four_colours_is_refused_and_a_grey_one_read(tmp_path):
    path = tmp_path / "image_00001.jpg"
    Image.new("CMYK", (32, 24)).save(path)
    with pytest.raises(UserError, match="four colours"):
        read_frame(path)
    Image.new("L", (32, 24), 100).save(path)
    assert (read_frame(path) == 100).all()


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_another_jpgs_header_inside_a_frame_does_not_mislead(tmp_path, options):
    path = tmp_path / "image_00001.jpg"
    Image.new("RGB", (160, 120)).save(path)
    thumbnail = path.read_bytes()
    for more in ({"comment": b"\xff\xc0\0\x11\x08\x40\0\x40\0\x03"}, {"exif": b"Exif\0\0" + thumbnail}):
        path.write_bytes(jpg_bytes(**options, **more))
        assert frame_size(path) == (61, 83)
        np.testing.assert_array_equal(read_frame(path), np.asarray(Image.open(path).convert("RGB")))
        assert read_frame(path, "RGBX", lambda height, width: 2).shape == (31, 42, 4)


def test_a_missing_frame_is_named(tmp_path):
    with pytest.raises(UserError, match="image_00007.jpg: No such file"):
        read_frame(tmp_path / frame_name(7))


def test_frames_beside_the_annotated_segment_are_not_asked_for(tmp_path):
    make_frames(tmp_path / "Run/a", 12)
    check_frames(tmp_path, [Video("a", "Run", 0, 1, 13), Video("a", "Run", 0, 3, 6)])
    (tmp_path / "Run/a" / frame_name(12)).unlink()
    check_frames(tmp_path, [Video("a", "Run", 0, 1, 12)])
    with pytest.raises(UserError, match=r"a \(11 of 12 frames\)"):
        check_frames(tmp_path, [Video("a", "Run", 0, 1, 13)])


def test_the_error_on_missing_frames_gives_their_count_and_the_first_three(tmp_path):
    videos = [Video(name, "Run", 0, 1, 6) for name in ("whole", "gone", "cut", "file", "late")]
    make_frames(tmp_path / "Run/whole", 5)
    make_frames(tmp_path / "Run/cut", 3)
    (tmp_path / "Run/file").write_text("")
    with pytest.raises(UserError) as error:
        check_frames(tmp_path, videos)
    assert str(error.value).startswith(
        f"{tmp_path}: frames missing for 4 of 5 annotated videos: "
        "gone (no folder), cut (3 of 5 frames), file (no folder), ...; "
    )
    with pytest.raises(UserError, match=r"for 1 of 2 annotated videos: gone \(no folder\); "):
        check_frames(tmp_path, videos[:2])


def test_a_missing_folder_of_frames_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder of frames"):
        check_frames(tmp_path / "nowhere", [])


def test_a_segment_of_many_frames_costs_no_list_of_them(tmp_path):
    make_frames(tmp_path / "Run/a", 3)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"a \(3 of 99999998 frames\), a \(0 of 3 frames\)"):
            videos = [Video("a", "Run", 0, 1, 10**8 - 1), Video("a", "Run", 0, 10**8 - 3, 10**8)]
            check_frames(tmp_path, videos)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_frames_beyond_number_99999_are_found(tmp_path):
    folder = tmp_path / "Run/a"
    folder.mkdir(parents=True)
    for number in range(99_998, 100_003):
        (folder / frame_name(number)).touch()
    check_frames(tmp_path, [Video("a", "Run", 0, 99_998, 100_003)])
    with pytest.raises(UserError, match=r"a \(2 of 7 frames\)"):
        check_frames(tmp_path, [Video("a", "Run", 0, 100_001, 100_008)])


@pytest.mark.parametrize("linked", ["Run", "Run/a"])
def test_a_folder_that_is_a_link_out_of_the_frames_is_refused(tmp_path, linked):
    inside, outside = tmp_path / "frames", tmp_path / "frames_of_others"
    make_frames(outside / "Run/a", 3)
    link, videos = inside / linked, [Video("a", "Run", 0, 1, 4)]
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / linked)
    with pytest.raises(UserError, match=f"{link}: a link out of the frames' folder") as error:
        check_frames(inside, videos)
    assert "\n" not in str(error.value)
    (tmp_path / "link").symlink_to(outside)  # the folder of frames itself may be a link
    check_frames(tmp_path / "link", videos)
    link.unlink()
    make_frames(inside / "store/a", 3)
    link.symlink_to(inside / "store" if linked == "Run" else "../store/a")
    check_frames(inside, videos)
    check_frames(tmp_path / "link", videos)
