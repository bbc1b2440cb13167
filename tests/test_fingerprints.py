"""What a checkpoint knows of the videos that it was trained on."""
from dataclasses import replace

import pytest

from datasets.samples import Sample, Samples
from model.checkpoint import Metadata
from model.training.plan import trained_on
from prediction.checks import note_training_videos
from run import console
from run.console import UserError
from run.fingerprints import Fingerprints
from run.spec import NetworkSpec

SAMPLES = Samples([Sample(f"v{i}", f"A/v{i}", 0, 1, 9 + i) for i in range(20)])


def test_fingerprints_come_back_from_their_text():
    known = Fingerprints.of(SAMPLES)
    text = known.to_json()
    assert len(text) == 20 * 8 and Fingerprints.from_json(text, "a") == known
    # Sorted, so the same for any order.
    assert Fingerprints.of(Samples(reversed(list(SAMPLES)))).to_json() == text
    assert Fingerprints.from_json("", "a") == Fingerprints()


@pytest.mark.parametrize("content", ["abc", "AAAA", 3, ["AAAAAAAA"], "AAAA AAAA", "é" * 8])
def test_other_text_is_refused_with_its_field(content):
    metadata = Metadata(NetworkSpec("resnet", {"model_depth": 10, "n_classes": 2})).to_json()
    metadata["training_videos"] = content
    with pytest.raises(UserError, match="a.pdparams: training_videos: expected base64 of 6 bytes"):
        Metadata.from_json(metadata, "a.pdparams")


def test_the_videos_of_the_weights_that_a_run_starts_from_count_too():
    first, second = Samples(list(SAMPLES)[:8]), Samples(list(SAMPLES)[6:12])
    metadata = trained_on(trained_on(Metadata(NetworkSpec()), first), second)
    assert metadata.training_videos.count(SAMPLES) == 12


def test_a_test_on_training_videos_is_noted_where_that_is_known(capsys):
    console.note.cache_clear()
    trained = trained_on(Metadata(NetworkSpec()), Samples(list(SAMPLES)[:8]))
    for metadata, samples, message in (
        (trained, SAMPLES, "8 of the 20 videos were training videos"),
        (trained, Samples(list(SAMPLES)[8:]), ""),
        # Other videos of the same names, of another data set: nothing is claimed.
        (trained, Samples(s._replace(end=s.end + 1) for s in SAMPLES), ""),
        (replace(trained, training_videos=None), SAMPLES, ""),
    ):
        note_training_videos("best.pdparams", metadata, samples)
        err = capsys.readouterr().err
        assert message in err and bool(err) == bool(message)


def test_a_video_is_known_by_its_place_whatever_its_key():
    known = Fingerprints.of(SAMPLES)
    assert known.count(Samples(s._replace(key=s.folder) for s in SAMPLES)) == 20
