"""Figures of which videos are right; no numpy, since `eval_accuracy.py` needs none."""
import collections


def mean_class_accuracy(pairs):
    """Return the mean over the classes of the part that is right, also called balanced accuracy.

    `pairs` holds `(class, whether it is right)` for each video; classes without a video do not count.
    """
    n, n_right = collections.Counter(), collections.Counter()
    for class_, is_right in pairs:
        n[class_] += 1
        n_right[class_] += bool(is_right)
    return sum(n_right[class_] / n[class_] for class_ in n) / len(n)
