"""The mean of the scores of two results, as of a network of RGB and one of flow."""
from report.accuracy import check_same_videos, comparison, top_k_accuracy
from run.console import UserError


def fusion(ground_truth, results, other, class_names, k, paths, ignore=False):
    """Yield the lines on the mean of two results' scores: its accuracy, and what it gains on each."""
    check_same_videos(results, other, *paths)
    for each, path in zip((results, other), paths):
        check_all_scores(each, class_names, path)
    both = fused(results, other, class_names)
    alone = top_k_accuracy(ground_truth, other, k, ignore)
    yield f"top-{k} accuracy of {paths[1]}: {alone}"
    yield f"top-{k} accuracy of both, fused: {top_k_accuracy(ground_truth, both, k, ignore)}"
    for each, path in zip((results, other), paths):
        yield from comparison(ground_truth, both, each, k, "both, fused", path)


def check_all_scores(results, class_names, path):
    """Raise UserError unless every video has the score of every class."""
    n, n_classes = min(map(len, results.values())), len(class_names)
    if n < n_classes:
        raise UserError(
            f"{path}: holds the {n} best of {n_classes} scores of a video, and fusing takes all; run test.py "
            f"with --output_topk {n_classes}"
        )


def fused(results, other, class_names):
    """Return the results that the mean of two results' scores gives, best first."""
    both = {}
    for key in results:
        ours, theirs = dict(results[key]), dict(other[key])
        pairs = [(name, (ours[name] + theirs[name]) / 2) for name in class_names]
        both[key] = sorted(pairs, key=lambda pair: -pair[1])
    return both
