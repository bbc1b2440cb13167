"""Accuracies of results, `{key: [(class name, score), ...]}` best first, and how sure they are."""
import collections
import math

from run.accuracy import mean_class_accuracy
from run.console import UserError, first_names, note


def class_name_of(annotation, subset, path):
    """Return `{key: class name}` of the samples of a subset.

    Raises UserError if the subset is empty, or some of its samples have no label, as those of a test set
    that is kept secret.
    """
    samples = annotation.subsets[subset]
    if not len(samples):
        raise UserError(f"{path}: no video of the subset {subset}")
    n_unlabelled = sum(class_index < 0 for class_index in samples.class_indices)
    if n_unlabelled:
        raise UserError(
            f"{path}: {n_unlabelled} of {len(samples)} videos of the subset {subset} have no label: "
            "no accuracy can be computed"
        )
    names = annotation.class_names
    return {key: names[index] for key, index in zip(samples.keys, samples.class_indices)}


def check_results(results, annotation, subset, k, path):
    """Raise UserError unless the results belong to the subset and are long enough for top-k."""
    if not results:
        raise UserError(f"{path}: no results in it; run test.py again")
    keys = set(annotation.subsets[subset].keys)
    strangers = [key for key in results if key not in keys]
    if strangers:
        raise UserError(
            f"{path}: {len(strangers)} of {len(results)} videos are not of the subset {subset}: "
            f"{first_names(strangers):.250}; give the annotation and the --subset that test.py ran on"
        )
    known = set(annotation.class_names)
    n_wanted = min(k, len(known))
    for key, pairs in results.items():
        unknown = [class_name for class_name, _ in pairs if class_name not in known]
        if unknown:
            raise UserError(f"{path}: video {key}: label {unknown[0]!r:.80} is not in the annotation")
        if len(pairs) < n_wanted:
            raise UserError(
                f"{path}: video {key} has {len(pairs)} labels, top-{k} needs {n_wanted}; "
                f"run test.py with --output_topk {k}"
            )


def note_missing(ground_truth, results, ignore):
    """Note how many videos have no result, and what becomes of them."""
    missing = [key for key in ground_truth if key not in results]
    if missing:
        note(
            f"{len(missing)} of {len(ground_truth)} videos have no result and "
            f"{'are left out' if ignore else 'count as wrong'}: {first_names(missing)}"
        )


def top_k_accuracy(ground_truth, results, k, ignore=False):
    """Return the part of videos whose class is among the first `k` of their result.

    `ground_truth` maps a video to its class name, `results` to its `(class name, score)` pairs, best
    first. A video without a result counts as wrong, or with `ignore` not at all.
    Reference: `util_scripts/eval_accuracy.py`.
    """
    keys = [key for key in ground_truth if not ignore or key in results]
    return sum(is_right(ground_truth, results, key, k) for key in keys) / len(keys)


def is_right(ground_truth, results, key, k):
    """Tell whether a video's class is among the first `k` of its result."""
    return ground_truth[key] in [class_name for class_name, _ in results.get(key, [])[:k]]


def comparison(ground_truth, results, other, k, path, other_path):
    """Yield the lines that say what `results` gain and lose against `other` results.

    Raises UserError if the two are not of the same videos.
    """
    check_same_videos(results, other, path, other_path)
    gained, lost = [], []
    for key in results:
        before, now = (is_right(ground_truth, of, key, k) for of in (other, results))
        if before != now:
            (gained if now else lost).append(key)
    yield f"against {other_path}, {len(results)} videos, top-{k}:"
    for what, keys in (("gained", gained), ("lost", lost)):
        yield f"{what}: {len(keys)}" + (f" ({first_names(keys)})" if keys else "")
    means = [
        mean_class_accuracy((ground_truth[key], is_right(ground_truth, of, key, k)) for key in results)
        for of in (other, results)
    ]
    yield "mean class accuracy: {:.4f}, was {:.4f}".format(*means[::-1])
    yield f"McNemar's exact p, two-sided: {mcnemar_p(len(gained), len(lost)):.4g}"

    n_of = collections.Counter(ground_truth[key] for key in results)
    difference_of = collections.Counter(ground_truth[key] for key in gained)
    difference_of.subtract(ground_truth[key] for key in lost)
    for class_name, n in sorted(difference_of.items(), key=lambda item: (-abs(item[1]), item[0])):
        if n:
            yield f"{class_name}: {n:+d} of {n_of[class_name]} videos"


def check_same_videos(results, other, path, other_path):
    """Raise UserError unless two results are of the same videos."""
    if set(results) != set(other):
        only = [sorted(set(a).difference(b)) for a, b in ((results, other), (other, results))]
        (n, m), example = map(len, only), next(keys[0] for keys in only if keys)
        raise UserError(
            f"{other_path}: not of the same videos as {path}: {n} are only in that, "
            f"{m} only in this ({example}, ...); compare results of the same annotation and subset"
        )


def mcnemar_p(n_gained, n_lost):
    """Return the two-sided p of McNemar's exact test: the chance that fair coins fall so unequally.

    Each video that only one of the two results has right is a coin.
    """
    n = n_gained + n_lost
    tail = sum(math.comb(n, i) for i in range(min(n_gained, n_lost) + 1))
    return min(1.0, 2 * tail / 2**n)


def wilson_interval(n_right, n, z=1.959963984540054):
    """Return Wilson's interval for a proportion, of 95 % by default."""
    p = n_right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
