"""Label videos of your own, straight from their files: no frames on disk, no annotation.

    python tools/predict.py video.mp4

prints the five best labels of the video. `--timeline` adds the best label of each second, `--json` prints a
line of JSON for each video instead. `--render labelled.mp4` writes the video again with its labels drawn in,
with `--cam` also what the network looks at; `--cam_maps maps.npz` writes that in numbers. `--features
features.npz` writes the vectors before the last layer and no labels. `--resume_path` also takes what
tools/export_model.py wrote for ONNX and for Paddle Inference. A video that cannot be read is reported
and stops no other; the exit code is then 1.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json

from opts import predict_options
from run.console import UserError, fault_of, note, run_script, working

if __name__ == "__main__":
    OPTIONS = predict_options()  # before Paddle, so that --help answers at once

import numpy as np

from datasets.flow import require_opencv
from model.exported import exported_scorer, is_exported
from prediction.checks import note_other_decoding
from prediction.features import write_features
from prediction.finding import named_videos
from prediction.labels import label_video, result_lines
from prediction.maps import LookedAt
from prediction.rendered_video import write_labelled_video
from prediction.video_clips import LimitedClips


def main(options):
    found = named_videos(options.videos, options.root_path, getattr(sys.stdin, "buffer", ()))
    if options.render or options.cam_maps:  # before the network is there
        found = only_one(found, options)
    network, looking = network_of(options)
    if network.clip.modality == "flow":
        require_opencv()
    output = Features(network, options) if options.features else Labels(network, options, looking)
    n_failed = 0
    for path in found:
        try:
            result = output.of(video_clips(path, network.clip, options))
        except Exception as error:  # whatever it is, it is this video's fault and stops no other
            is_named = isinstance(error, UserError) or getattr(error, "filename", None)
            print(f"error: {'' if is_named else f'{path}: '}{fault_of(error)}", file=sys.stderr)
            n_failed += 1
        else:
            output.add(*result)
    output.finish()
    if n_failed:
        sys.exit(1)


def network_of(options):
    """Return the `Scorer` of a checkpoint, or of an exported model, which needs no training code; and what
    gives its maps, None unless they are asked for.
    """
    path, wants_maps = options.resume_path, options.cam or options.cam_maps
    if is_exported(path):
        if options.features or wants_maps:
            what = "--features" if options.features else "--cam"
            raise UserError(f"{path}: an exported model gives labels and no {what}; give a checkpoint")
        with working("loading the model"):
            return exported_scorer(path), None
    with working("loading Paddle"):
        from model.cam import cam
        from model.checkpoint import load_network
        from model.device import explained, prepare_device
        from model.inference import scorer
        from model.training.distributed import Ranks
    if Ranks().n > 1:
        raise UserError("tools/predict.py works in one process; start it without the launcher")
    with explained("use a smaller --inference_batch_size"), working("loading the network"):
        prepare_device()
        net, metadata = load_network(path)
        note_other_decoding(path, metadata, fast_decode=False)
        network = scorer(net, metadata, features=bool(options.features))
        return network, cam(net, metadata) if wants_maps else None


def only_one(found, options):
    """Return the videos that were found as a list. Raises UserError for several."""
    found = list(found)
    if len(found) > 1:
        raise UserError(
            f"{options.render or options.cam_maps}: one file, and {len(found)} videos in "
            f"{options.videos[0]}; give --{'render' if options.render else 'cam_maps'} one of them"
        )
    return found


def video_clips(path, clip, options):
    """Return the clips of a video that was found; raise the error that was found in its place."""
    if isinstance(path, Exception):
        raise path
    if options.render and path.resolve() == options.render.resolve():
        raise UserError(f"{path}: --render would write over this video itself; give another name")
    protocol = options.protocol
    return LimitedClips(
        path, clip, protocol.inference_stride, protocol.inference_crop, options.fps, options.time_limit
    )


class Labels:
    """Prints the labels of each video, and writes it again with them."""

    def __init__(self, network, options, cam=None):
        self.network, self.options, self.cam, self.looked_at = network, options, cam, None
        if network.class_names is None:
            note(f"{options.resume_path}: has no class names; its classes are given by number, from 0")

    def of(self, clips):
        """Return a video's clips, its labels and those of each frame."""
        network, options, protocol = self.network, self.options, self.options.protocol
        score, noting_windows = network.score, iter
        if self.cam is not None:
            looked_at = LookedAt(score, self.cam, network.clip, protocol.inference_crop)
            self.looked_at, score, noting_windows = looked_at, looked_at.score, looked_at.noting_windows
        return clips, *label_video(
            clips,
            noting_windows(clips.scored(score, protocol.inference_batch_size)),
            network.class_names,
            protocol.output_topk,
            options.timeline,
            bool(options.render),
        )

    def add(self, clips, result, frame_labels):
        """Print the labels of a video as soon as it is done, and write it again with them."""
        options = self.options
        print(json.dumps(result) if options.json else "\n".join(result_lines(result)), flush=True)
        if options.render:
            texts = [item and f"{item['label']} {item['score']:.2f}" for item in frame_labels]
            heat_at = self.looked_at.at if options.cam else None
            write_labelled_video(clips.path, options.render, texts, clips.frame_rate, clips.fps, heat_at)
            note(f"{options.render}: written, {len(texts)} frames")
        if options.cam_maps:
            self.looked_at.write(options.cam_maps, self.network.class_names)
            note(f"{options.cam_maps}: written, the maps of {result['n_clips']} clips")

    def finish(self):
        """Everything is printed already."""


class Features:
    """Collects the features of each video for one file."""

    def __init__(self, network, options):
        self.network, self.options = network, options
        self.names, self.clip_video, self.windows, self.rows = [], [], [], []

    def of(self, clips):
        """Return a video's path, and the window and the features of each clip."""
        scored = clips.scored(self.network.score, self.options.protocol.inference_batch_size)
        return clips.path, *zip(*scored)

    def add(self, path, windows, rows):
        """Take in a video, whole."""
        self.clip_video += [len(self.names)] * len(rows)
        self.names.append(str(path))
        self.windows += windows
        self.rows += rows

    def finish(self):
        """Write the file, unless no video could be read."""
        if self.names:
            path, names, rows = self.options.features, self.names, np.stack(self.rows)
            class_names = self.network.class_names
            write_features(path, rows, self.clip_video, self.windows, names, class_names=class_names)
            print(f"{path}: {len(names)} videos, {len(rows)} clips, {rows.shape[1]} features of each")


if __name__ == "__main__":
    run_script(main, OPTIONS)
