"""Maps of what a network looks at: on the evidence in space and time, and of this network alone."""
import base64
import json

import av
import numpy as np
import paddle
import pytest
from conftest import network
from drifting_stripes import CLASSES, CLIP, draw_clip, draw_clips, random_network, trained_network
from report_data import Page, evaluator

from model.cam import class_maps
from model.checkpoint import Metadata, save_checkpoint
from model.device import normalise
from prediction.maps import _nearest

N = 48


@pytest.fixture(scope="module")
def looked_at():
    """The network, its clips and discs, whole maps `[N, T, H, W]` of it and of one with random weights."""
    net, (classes, clips, discs) = trained_network(), draw_clips(N, 7)
    with paddle.no_grad():
        right = net(normalise(clips, CLIP)).numpy().argmax(1) == classes
    assert right.mean() >= 0.95
    random = random_network(1)
    random.eval()
    whole = []
    for each in (net, random):
        maps = class_maps(each, normalise(clips, CLIP), classes)
        frames = [[maps.frame(i, t, 48, 48) for t in range(16)] for i in range(N)]
        whole.append(np.array(frames))
    return net, classes, clips, discs, *whole


def on_disc(maps, discs):
    """Return the part of the clips whose highest value lies on the disc, in a frame that shows it."""
    return np.mean([disc[np.unravel_index(m.argmax(), m.shape)] for m, disc in zip(maps, discs)])


def test_the_maximum_lies_on_the_evidence_in_space_and_time(looked_at):
    _, _, _, discs, maps, _ = looked_at
    print(f"pointing game {on_disc(maps, discs):.3f}, by chance {discs.mean():.3f}")
    assert on_disc(maps, discs) >= 0.95


def test_what_is_shown_in_some_frames_gets_its_weight_there(looked_at):
    _, _, _, discs, maps, _ = looked_at
    shown, over_time = discs.any((2, 3)), maps.mean((2, 3))
    assert np.mean([s[m.argmax()] for s, m in zip(shown, over_time)]) >= 0.95
    share = (over_time * shown).sum() / over_time.sum()
    print(f"share of the weight in the frames with the disc {share:.3f}, their part {shown.mean():.3f}")
    means = [(m[s].mean(), m[~s].mean()) for s, m in zip(shown, over_time)]
    assert np.mean([within > without for within, without in means]) >= 0.95


def test_random_weights_give_another_map(looked_at):
    _, _, _, discs, maps, others = looked_at
    rank = lambda values: values.reshape(-1).argsort().argsort()
    correlations = [np.corrcoef(rank(a), rank(b))[0, 1] for a, b in zip(maps, others)]
    print(f"rank correlation {np.mean(correlations):.3f}, pointing game {on_disc(others, discs):.3f}")
    assert np.mean(correlations) < 0.5 and on_disc(others, discs) < 0.5


def test_deleting_what_it_looks_at_costs_the_score_and_showing_only_that_brings_it(looked_at):
    net, classes, clips, _, maps, _ = looked_at
    n, rng, areas = 12, np.random.default_rng(0), {}
    random = rng.permuted(np.arange(16 * 36)[None].repeat(n, 0), axis=1).reshape(n, 16, 6, 6)
    random = random.repeat(8, 2).repeat(8, 3)  # boxes of 8 x 8 pixels, as a fair rival: not single pixels
    means = clips[:n].mean(axis=(1, 2, 3), keepdims=True)
    for name, order in (("map", maps[:n]), ("random", random)):
        for what in ("deletion", "insertion"):
            scores = []
            for part in (0.02, 0.05, 0.1, 0.2):
                limits = np.quantile(order.reshape(n, -1), 1 - part, axis=1).reshape(n, 1, 1, 1)
                kept = (order < limits) if what == "deletion" else (order >= limits)
                changed = np.where(kept[..., None], clips[:n], means).astype(np.uint8)
                with paddle.no_grad():
                    rows = paddle.nn.functional.softmax(net(normalise(changed, CLIP)), axis=1).numpy()
                scores.append(rows[np.arange(n), classes[:n]].mean())
            areas[name, what] = np.mean(scores)
    print({" ".join(key): round(float(value), 3) for key, value in areas.items()})
    assert areas["map", "deletion"] < areas["random", "deletion"] - 0.1
    assert areas["map", "insertion"] > areas["random", "insertion"] + 0.1


@pytest.mark.parametrize(
    "name, arguments, offset",
    [
        ("resnet", {"resnet_widen_factor": 0.125}, (0, 0, 0)),
        ("resnet", {"resnet_widen_factor": 0.125, "no_max_pool": True}, (0, 0, 0)),
        ("resnet2p1d", {"resnet_widen_factor": 0.125}, (0, 0, 0)),
        ("densenet", {"model_depth": 121}, (3, 6, 6)),
    ],
)
def test_a_cell_lies_where_its_convolutions_and_pools_put_it(name, arguments, offset):
    net = network(name=name, **arguments)
    net.eval()
    clips = paddle.to_tensor(np.random.default_rng(0).standard_normal((1, 3, 16, 40, 40), np.float32))
    stages = list(net.stages())
    maps = class_maps(net, clips, [1])
    assert (maps.stride, maps.offset) == ((2, 4, 4), (0, 0, 0)) and maps.values.shape == (1, 8, 10, 10)
    coarse = class_maps(net, clips, [1], [stages[-3] if name != "densenet" else "denseblock3"])
    assert coarse.offset == offset


def test_a_frame_of_a_looped_window_is_its_first_place():
    assert _nearest([17, 18, 19, 17, 18], 18) == 1
    assert _nearest([1, 3, 5, 7], 6) == 2  # every second frame


def write_clip(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_checkpoint(path):
    net = trained_network()
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    save_checkpoint(path, {"weights": weights}, Metadata(net.spec, CLIP, list(CLASSES)))


def test_predict_draws_and_writes_the_maps(tmp_path, run_script):
    frames, discs = draw_clip(2, np.random.default_rng(3), height=96, width=128)
    write_clip(tmp_path / "v.mkv", frames)
    write_checkpoint(tmp_path / "results/best.pdparams")
    arguments = "v.mkv --render out.mp4 --cam --cam_maps maps.npz".split()
    code, out, err = run_script("tools/predict.py", *arguments, cwd=tmp_path)
    assert code == 0 and "DriftDown" in out.splitlines()[1], err
    with av.open(str(tmp_path / "out.mp4")) as container:
        drawn = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    redness = (drawn[..., 0].astype(int) - drawn[..., 2]) - (frames[..., 0].astype(int) - frames[..., 2])
    # Means of 8 x 8 pixels: one alone may be what the video's compression makes of the disc's edge.
    means = redness.reshape(16, 12, 8, 16, 8).mean((2, 4))
    t, row, column = np.unravel_index(means.argmax(), means.shape)
    assert discs.any(0)[8 * row + 4, 8 * column + 4] and discs[t].any() and means.max() > 60
    assert np.abs(redness[:, 30:, :14]).mean() < 12  # outside of the crop
    with np.load(tmp_path / "maps.npz") as file:
        assert file["maps"].shape == (1, 8, 12, 12) and file["maps"].max() == 1
        assert file["windows"].tolist() == [list(range(1, 17))] and file["class_indices"].tolist() == [2]
        assert file["stride"].tolist() == [2, 4, 4] and list(file["class_names"]) == list(CLASSES)


def test_the_report_shows_the_maps_of_mistakes(tmp_path, run_script):
    import simplejpeg

    database = {}
    for i in range(4):  # two of the four are called what they are not
        folder, label = tmp_path / f"dataset/UCF-101-jpg/{CLASSES[i]}/v{i}", CLASSES[i]
        folder.mkdir(parents=True)
        for t, frame in enumerate(draw_clip(i if i < 2 else 0, np.random.default_rng(i), 20, 96, 128)[0]):
            (folder / f"image_{t + 1:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(frame, quality=95))
        database[f"v{i}"] = {"subset": "validation", "annotations": {"label": label, "segment": [1, 21]}}
    (tmp_path / "dataset/ucf101_01.json").write_text(json.dumps({"labels": CLASSES, "database": database}))
    write_checkpoint(tmp_path / "results/best.pdparams")
    code, out, err = run_script("test.py", "--cam", 1, "--n_threads", 0, cwd=tmp_path)
    assert code == 0 and "results/val_cam.json: what was looked at in 1 wrongly labelled videos" in out, err
    path = tmp_path / "results/val_cam.json"
    content = json.loads(path.read_text())
    (entry,) = content["videos"].values()
    assert entry["label"] == CLASSES[0] and entry["part"] == [0.125, 0, 0.875, 1] and len(entry["maps"]) == 5
    evaluate, report = evaluator(run_script, tmp_path), tmp_path / "results/report.html"
    assert evaluate("--report")[0] == 0
    page = Page(report)
    assert "In red: what the network looked at" in page.text
    pictures = [a["src"] for tag, a in page.tags if "frames of" in a.get("alt", "")]
    strips = [base64.b64decode(source.split(",")[1]) for source in pictures]
    heights = [simplejpeg.decode_jpeg(strip).shape[0] for strip in strips]
    assert sorted(heights) == [96, 194]  # the one with maps has a second row
    entry["label"] = "another"
    path.write_text(json.dumps(content))
    assert evaluate("--report")[0] == 0 and "val_cam.json is of other results" in Page(report).text
    path.write_text('{"version": 1, "videos": {"v2": 3}}')
    assert evaluate("--report")[0] == 0 and "val_cam.json cannot be read" in Page(report).text
