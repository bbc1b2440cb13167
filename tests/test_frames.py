"""Frames on disk: Pillow's pixels, files that are missing or broken, and how a folder is recognised."""
import io
import json
import shutil
import tracemalloc

import numpy as np
import pytest
from conftest import ROOT, make_frames, read_frame
from PIL import Image

from datasets.samples import Sample, Samples
from datasets.stores import open_store
from datasets.stores.jpg_folders import Reader, Store, frame_name
from run.console import UserError
from run.spec import FrameSpec


def sample(folder, begin, end):
    return Sample(folder.split("/")[-1], folder, 0, begin, end)


def check(path, samples):
    Store(path).check(Samples(samples), is_shown=False)


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
        assert Reader(tmp_path).size(1) == (61, 83)
        np.testing.assert_array_equal(read_frame(path), np.asarray(Image.open(path).convert("RGB")))
        assert Reader(tmp_path).decode(1, "RGBX", 2).shape == (31, 42, 4)


def test_a_missing_frame_is_named(tmp_path):
    with pytest.raises(UserError, match="image_00007.jpg: No such file"):
        read_frame(tmp_path / frame_name(7))


def test_frames_beside_the_annotated_segment_are_not_asked_for(tmp_path):
    make_frames(tmp_path / "Run/a", 12)
    check(tmp_path, [sample("Run/a", 1, 13), sample("Run/a", 3, 6)])
    (tmp_path / "Run/a" / frame_name(12)).unlink()
    check(tmp_path, [sample("Run/a", 1, 12)])
    with pytest.raises(UserError, match=r"a \(11 of 12 frames\)"):
        check(tmp_path, [sample("Run/a", 1, 13)])


def test_the_error_on_missing_frames_gives_their_count_and_the_first_three(tmp_path):
    videos = [sample(f"Run/{name}", 1, 6) for name in ("whole", "gone", "cut", "file", "late")]
    make_frames(tmp_path / "Run/whole", 5)
    make_frames(tmp_path / "Run/cut", 3)
    (tmp_path / "Run/file").write_text("")
    with pytest.raises(UserError) as error:
        check(tmp_path, videos)
    assert str(error.value).startswith(
        f"{tmp_path}: frames missing for 4 of 5 annotated videos: "
        "gone (no folder), cut (3 of 5 frames), file (no folder), ...; "
    )
    with pytest.raises(UserError, match=r"for 1 of 2 annotated videos: gone \(no folder\); "):
        check(tmp_path, videos[:2])


def test_a_missing_folder_of_frames_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder of frames"):
        open_store(tmp_path / "nowhere")


def test_a_segment_of_many_frames_costs_no_list_of_them(tmp_path):
    make_frames(tmp_path / "Run/a", 3)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"a \(3 of 99999998 frames\), a \(0 of 3 frames\)"):
            videos = [sample("Run/a", 1, 10**8 - 1), sample("Run/a", 10**8 - 3, 10**8)]
            check(tmp_path, videos)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_frames_beyond_number_99999_are_found(tmp_path):
    folder = tmp_path / "Run/a"
    folder.mkdir(parents=True)
    for number in range(99_998, 100_003):
        (folder / frame_name(number)).touch()
    check(tmp_path, [sample("Run/a", 99_998, 100_003)])
    with pytest.raises(UserError, match=r"a \(2 of 7 frames\)"):
        check(tmp_path, [sample("Run/a", 100_001, 100_008)])


@pytest.mark.parametrize("linked", ["Run", "Run/a"])
def test_a_folder_that_is_a_link_out_of_the_frames_is_refused(tmp_path, linked):
    inside, outside = tmp_path / "frames", tmp_path / "frames_of_others"
    make_frames(outside / "Run/a", 3)
    link, videos = inside / linked, [sample("Run/a", 1, 4)]
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / linked)
    with pytest.raises(UserError, match=f"{link}: a link out of the frames' folder") as error:
        check(inside, videos)
    assert "\n" not in str(error.value)
    (tmp_path / "link").symlink_to(outside)  # the folder of frames itself may be a link
    check(tmp_path / "link", videos)
    link.unlink()
    make_frames(inside / "store/a", 3)
    link.symlink_to(inside / "store" if linked == "Run" else "../store/a")
    check(inside, videos)
    check(tmp_path / "link", videos)


def test_a_sample_of_many_folders_deep_is_found_and_its_links_are_refused(tmp_path):
    make_frames(tmp_path / "frames/a/b/c", 3)
    check(tmp_path / "frames", [sample("a/b/c", 1, 4)])
    (tmp_path / "frames/a/b").rename(tmp_path / "b")
    (tmp_path / "frames/a/b").symlink_to(tmp_path / "b")
    with pytest.raises(UserError, match="frames/a/b: a link out of the frames' folder"):
        check(tmp_path / "frames", [sample("a/b/c", 1, 4)])
    check(tmp_path / "frames", [sample(f"{tmp_path}/b/c", 1, 4)])  # under another root, by its own path


LEGACY = (ROOT / "tests/legacy/frames.jsonl").read_text()


def write_journal(path, *lines):
    path.mkdir(exist_ok=True)
    (path / "frames.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_a_folder_is_opened_as_its_journal_says_in_any_order_of_its_first_line(tmp_path):
    for first in (
        json.loads(LEGACY.splitlines()[0]),
        {"fps": None, "quality": 80, "size": 32},
        {"store": "jpg_folders", "fps": None, "size": 32, "version": 1, "quality": 80},
    ):
        write_journal(tmp_path, first)
        store = open_store(tmp_path)
        assert type(store) is Store and store.spec == FrameSpec(size=32, quality=80)
    write_journal(tmp_path, {**FrameSpec().to_json(), "store": "tapes"})
    with pytest.raises(UserError, match="frames.jsonl: store is 'tapes', expected one of .*jpg_folders"):
        open_store(tmp_path)


@pytest.mark.parametrize(
    "first, message",
    [
        ({"size": 240, "quality": 80}, "frames.jsonl: broken"),
        ({"video": "A/a", "n_frames": 3}, "frames.jsonl: broken"),
        ([240, 80, None], "frames.jsonl: broken"),
        ({"size": "240", "quality": 80, "fps": None}, "line 1: size is '240', expected a whole number"),
        ({"size": 240, "quality": 80, "fps": 0}, "line 1: fps is 0, expected a number, above 0"),
        ({"size": 240, "quality": 80, "fps": None, "colour": 1}, "line 1: unknown field 'colour'"),
        ({**FrameSpec().to_json(), "version": 2}, "line 1: of version 2, this program reads up to 1"),
    ],
)
def test_a_first_line_that_stage_1_did_not_write_is_refused(tmp_path, first, message):
    write_journal(tmp_path, first)
    with pytest.raises(UserError, match=message) as error:
        open_store(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_folder_without_a_journal_is_recognised_by_its_frames(tmp_path):
    make_frames(tmp_path / "Run/a", 3)
    store = open_store(tmp_path)
    assert type(store) is Store and store.spec is None
    assert store.frame_rates(Samples([sample("Run/a", 1, 4)])) is None
    (tmp_path / "frames.jsonl").write_text('{"size"')  # cut short in its first line
    assert open_store(tmp_path).spec is None
    shutil.rmtree(tmp_path / "Run")
    with pytest.raises(UserError, match=r"no frames of a known kind \(jpg_folders\); run generate_video"):
        open_store(tmp_path)


def test_the_frame_rates_are_those_of_the_samples_if_all_are_known(tmp_path):
    rates = {"A/a": 25.0, "A/b": 29.97, "A/c": 24, "A/d": 60.0, "A/e": None}
    lines = [{"video": v, "n_frames": 9, **({"fps": r} if r else {})} for v, r in rates.items()]
    write_journal(tmp_path, FrameSpec().to_json(), *lines)
    store = open_store(tmp_path)
    samples = Samples(sample(folder, 1, 10) for folder in ("A/a", "A/b", "A/c", "A/b"))
    assert store.frame_rates(samples) == (25.0, 24, 29.97)
    for unknown in ("A/e", "A/f"):
        assert store.frame_rates(samples + Samples([sample(unknown, 1, 10)])) is None
    assert store.frame_rates(Samples()) is None
    write_journal(tmp_path, FrameSpec(fps=12.5).to_json(), *lines)  # older: the rate is that of all
    assert open_store(tmp_path).frame_rates(Samples([sample("A/e", 1, 10)])) == (12.5, 12.5, 12.5)
    for rate in (0, -1, "25", float("nan"), float("inf"), True):
        write_journal(tmp_path, FrameSpec().to_json(), {"video": "A/a", "n_frames": 9, "fps": rate})
        with pytest.raises(UserError, match="frames.jsonl: broken"):
            open_store(tmp_path).frame_rates(samples)
