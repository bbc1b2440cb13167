"""Stage 5: the top-k accuracy of a results file against the annotation. Needs no Paddle.

    python eval_accuracy.py
    python eval_accuracy.py dataset/ucf101_01.json results/val.json -k 1 --subset validation

prints, on UCF-101 split 1,

    load ground truth
    number of ground truth: 3783
    load result
    number of result: 3783
    calculate top-1 accuracy
    top-1 accuracy: ...

and with `--compare` what is gained and lost against other results of the same videos. `--report`
writes results/report.html: what was taken for what, the worst mistakes with their frames, the run.
"""
import collections
import math

from datasets.annotation import read_annotation, read_results, read_run
from opts import eval_options
from run.console import UserError, first_names, note, run_script, working
from run.files import atomic_write


def main(options):
    print("load ground truth")
    annotation = read_annotation(options.ground_truth_path)
    ground_truth = class_name_of(annotation, options.subset, options.ground_truth_path)
    print(f"number of ground truth: {len(ground_truth)}")

    print("load result")
    results = read_results(options.result_path)
    check_results(results, annotation, options.subset, options.k, options.result_path)
    print(f"number of result: {len(results)}")
    note_missing(ground_truth, results, options.ignore)

    print(f"calculate top-{options.k} accuracy")
    accuracy = top_k_accuracy(ground_truth, results, options.k, options.ignore)
    print(f"top-{options.k} accuracy: {accuracy}")

    if options.save:
        atomic_write(options.result_path.with_name(f"top{options.k}.txt"), f"{accuracy}\n")
    if options.compare:
        other = read_results(options.compare)
        check_results(other, annotation, options.subset, options.k, options.compare)
        paths = options.result_path, options.compare
        print(*comparison(ground_truth, results, other, options.k, *paths), sep="\n")
    if options.report:
        write_report(annotation, results, options)


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


def write_report(annotation, results, options):
    """Write report.html beside the results, and say so in a note: stdout keeps its lines."""
    from report.page import report_html
    from report.provenance import last_header

    samples = [s for s in annotation.subsets[options.subset] if not options.ignore or s.key in results]
    path = options.result_path.with_name("report.html")
    with working("drawing the report"):
        text = report_html(
            annotation.class_names,
            samples,
            results,
            source=f"{options.result_path} against {options.ground_truth_path}, subset {options.subset}",
            run=read_run(options.result_path, results),
            training=last_header(options.result_path.with_name("train.jsonl")),
            curves_path=options.result_path.with_name("curves.png"),
            frames_path=options.video_path,
        )
    atomic_write(path, text.encode("utf-8", "backslashreplace"))
    note(f"{path}: report on {len(samples)} videos", of_success=True)


if __name__ == "__main__":
    run_script(main, eval_options())
