"""Frames on disk: Pillow's pixels, and files that are missing or broken."""
import io

import numpy as np
import pytest
from conftest import make_frames
from PIL import Image

from datasets.annotation import Video
from datasets.frames import check_frames, count_frames, frame_name, read_frame
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


def test_a_missing_frame_is_named(tmp_path):
    with pytest.raises(UserError, match="image_00007.jpg: No such file"):
        read_frame(tmp_path / frame_name(7))


def test_frames_are_counted_from_1_without_a_gap(tmp_path):
    folder = tmp_path / "v"
    make_frames(folder, 12)
    (folder / "notes.txt").write_text("not a frame")
    assert count_frames(folder) == 12
    (folder / frame_name(5)).unlink()
    with pytest.raises(UserError, match=r"v: image_00005\.jpg is missing"):
        count_frames(folder)


@pytest.mark.parametrize("lost, named", [(range(1, 4), 1), (range(1, 2), 1)])
def test_an_empty_folder_and_a_missing_first_frame_are_refused(tmp_path, lost, named):
    make_frames(tmp_path / "v", 3)
    for number in lost:
        (tmp_path / "v" / frame_name(number)).unlink()
    with pytest.raises(UserError, match=frame_name(named)):
        count_frames(tmp_path / "v")


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
