"""Bad annotation, results and weight files by the thousand, and judges of what is made of them.

    python tests/bad_files.py weights 3000 --seed 7

prints how many files were refused and how many were read right; ends with an error at the first one
that was read wrong, ran for more than ten seconds, or raised anything but UserError.
"""
import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bad_weights import bad_weights, judge_weights
from spoiling import places, refusal, with_changed_bytes, with_strange_value

from datasets.annotation import SUBSETS, annotation_json, read_annotation, read_results
from datasets.samples import Sample, Samples
from report.accuracy import check_results, top_k_accuracy

LABELS = ["Jump", "run", "Fence"]
SAMPLES = {
    "training": Samples([Sample("v_a", "Jump/v_a", 0, 1, 30), Sample("v_é", "run/v_é", 1, 5, 6)]),
    "validation": Samples([Sample("v_b", "Fence/v_b", 2, 1, 17), Sample("v_c", "Jump/v_c", 0, 2, 9)]),
    "testing": Samples([Sample("v_t", "test/v_t", -1, 1, 3), Sample("v_u", "Jump/v_a", 0, 2, 4)]),
}
RESULTS = {
    name: [{"label": label, "score": score} for label, score in pairs]
    for name, pairs in {
        "v_b": [("Fence", 0.6), ("run", 0.3), ("Jump", 0.1)],
        "v_c": [("run", 1), ("Jump", 0), ("Fence", -1e-9)],
    }.items()
}

# Text -----------------------------------------------------------------------------------------

def _bad_texts(rng, n, content):
    for _ in range(n):
        changed = content
        for _ in range(rng.choice([0, 1, 1, 2, 3])):
            changed = with_strange_value(rng, changed)
            if not isinstance(changed, dict) or len(list(places(changed))) < 2:
                break
        text = json.dumps(changed, ensure_ascii=rng.random() < 0.5)
        content_bytes = text.encode("utf-8", "surrogatepass")
        if changed is content or rng.random() < 0.4:
            content_bytes = with_changed_bytes(rng, content_bytes)
        yield content_bytes


def bad_annotations(rng, n):
    """Yield `n` spoilt annotation files as bytes, the same for the same `random.Random`."""
    return _bad_texts(rng, n, json.loads(annotation_json(LABELS, SAMPLES)))


def bad_results(rng, n):
    """Yield `n` spoilt results files as bytes."""
    return _bad_texts(rng, n, {"results": RESULTS})


def _pairs_once(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), "a key that comes twice was read"
    return dict(pairs)


def judge_annotation(content, path):
    """Return "refused" or "right" for an annotation file; raise AssertionError where it is read wrong."""
    message, annotation = refusal(read_annotation, path, content)
    if message:
        return "refused"
    plain = json.loads(content.decode(), object_pairs_hook=_pairs_once)
    assert annotation.class_names == plain["labels"]
    n_samples = 0
    for subset in SUBSETS:
        for sample in annotation.subsets[subset]:
            entry = plain["database"][sample.key]
            label = entry["annotations"].get("label")
            assert entry["subset"] == subset and (label is not None or subset == "testing")
            assert sample.class_index == (-1 if label is None else plain["labels"].index(label))
            assert sample.folder == entry.get("video_path", f"{label or 'test'}/{sample.key}")
            parts = sample.folder.split("/")
            assert all(parts) and not {".", ".."}.intersection(parts) and sample.folder.isprintable()
            assert entry["annotations"]["segment"] == [sample.begin, sample.end]
            assert type(sample.begin) is type(sample.end) is int and 0 < sample.begin < sample.end
            n_samples += 1
    assert n_samples == len(plain["database"])
    return "right"


def judge_results(content, path):
    """Return "refused" or "right" for a results file, top-1 to top-3 accuracy included."""
    truth = {sample.key: LABELS[sample.class_index] for sample in SAMPLES["validation"]}
    path.with_name("truth.json").write_text(annotation_json(LABELS, SAMPLES))
    annotation = read_annotation(path.with_name("truth.json"))

    def read(path):
        results = read_results(path)
        check_results(results, annotation, "validation", 1, path)
        return results

    message, results = refusal(read, path, content)
    if message:
        return "refused"
    plain = json.loads(content.decode(), object_pairs_hook=_pairs_once)["results"]
    for name, result in plain.items():
        assert results[name] == [(item["label"], item["score"]) for item in result]
        scores = [item["score"] for item in result]
        assert scores == sorted(scores, reverse=True) and all(type(s) in (int, float) for s in scores)
        assert all(abs(score) < float("inf") for score in scores)
    for k in (1, 2, 3):
        n_right = 0
        for name, result in plain.items():
            n_right += any(item["label"] == truth[name] for item in result[:k])
        assert top_k_accuracy(truth, results, k) == n_right / len(truth)
        assert top_k_accuracy(truth, results, k, ignore=True) == n_right / len(plain)
    return "right"


KINDS = {
    "annotations": (bad_annotations, judge_annotation),
    "results": (bad_results, judge_results),
    "weights": (bad_weights, judge_weights),
}


def judge_all(kind, n, seed, folder):
    """Judge `n` files of a kind; return how many were refused and how many right.

    Raises AssertionError, with the file's beginning, where one is read wrong.
    """
    generate, judge = KINDS[kind]
    outcomes = Counter()
    for i, content in enumerate(generate(random.Random(seed), n)):
        signal.setitimer(signal.ITIMER_PROF, 10)  # of its own computing: other processes may be busy
        try:
            outcomes[judge(content, Path(folder) / "bad")] += 1
        except BaseException as error:
            raise AssertionError(
                f"{kind} {i} of seed {seed}: {type(error).__name__}: {error}; {content[:300]!r}"
            ) from error
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return dict(outcomes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    next(KINDS[options.kind][0](random.Random(0), 1))  # imports all, before the bound on memory
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = n_pages * resource.getpagesize() + 2 * 10**9
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))

    def too_long(*_):
        raise TimeoutError("longer than ten seconds")

    signal.signal(signal.SIGPROF, too_long)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # opening a file takes 2 ms on a disk
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        outcomes = judge_all(options.kind, options.n, options.seed, folder)
    # Not getrusage's, which begins with the peak of the process that started this one.
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    outcomes["peak_mb"] = int(peak.split()[1]) // 1000
    print(json.dumps({"kind": options.kind, "n": options.n, "seed": options.seed, **outcomes}))


if __name__ == "__main__":
    main()
