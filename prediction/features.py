"""Write the file of `--features`; `numpy.load` reads it, without pickled objects.

    clip_features   [n_clips, C] float32    the vector before the last layer of each clip (ResNet3D-50: 2048)
    video_features  [n_videos, C] float32   their mean over each video
    video_names     [n_videos] text
    clip_video      [n_clips] int64         the index of each clip's video; a video's clips follow each other
    clip_segments   [n_clips, 2] int64      first frame from 1, last frame + 1
    labels          [n_videos] int64        the index of each video's class; left out if a video has none
    class_names     [n_classes] text        left out if the classes have no names
"""
import numpy as np

from run.files import atomic_path


def features_bytes(n_clips, n_videos, n_features):
    """Return how many bytes a features file takes, except for its names."""
    return 4 * n_features * (n_clips + n_videos) + 24 * n_clips


def write_features(
    path, clip_features, clip_video, windows, video_names, class_indices=None, class_names=None
):
    """Write the file, whole or not at all; `windows` holds the frame numbers of each clip."""
    starts = np.searchsorted(clip_video, np.arange(len(video_names)))
    sums = np.add.reduceat(clip_features, starts, axis=0, dtype=np.float64)
    counts = np.bincount(clip_video, minlength=len(video_names))
    arrays = {
        "clip_features": clip_features,
        "video_features": (sums / counts[:, None]).astype(np.float32),
        "video_names": np.array(video_names, np.str_),
        "clip_video": np.array(clip_video, np.int64),
        "clip_segments": np.array([(min(window), max(window) + 1) for window in windows], np.int64),
    }
    if class_indices is not None:
        arrays["labels"] = np.array(class_indices, np.int64)
    if class_names is not None:
        arrays["class_names"] = np.array(class_names, np.str_)
    n_bytes = features_bytes(len(clip_features), len(video_names), clip_features.shape[1])
    with atomic_path(path, n_bytes) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
