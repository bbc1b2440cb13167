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
import math

from datasets.annotation import read_annotation, read_results, read_run
from disk import write_file
from opts import UserError, eval_options, note, run, working


def top_k_accuracy(ground_truth, results, k, ignore=False):
    """Return the part of videos whose class is among the first `k` labels of their result.

    `ground_truth` maps a video to its class name, `results` to its `(label, score)` pairs, best
    first. A video without a result counts as wrong, or with `ignore` not at all.
    Reference: `util_scripts/eval_accuracy.py`.
    """
    names = [name for name in ground_truth if not ignore or name in results]
    return sum(is_right(ground_truth, results, name, k) for name in names) / len(names)


def is_right(ground_truth, results, name, k):
    """Tell whether a video's class is among the first `k` labels of its result."""
    return ground_truth[name] in [label for label, _ in results.get(name, [])[:k]]


def mcnemar_p(n_gained, n_lost):
    """Return the two-sided p of McNemar's exact test: the chance that fair coins fall so unequally.

    Each video that only one of the two results has right is a coin.
    """
    n = n_gained + n_lost
    tail = sum(math.comb(n, i) for i in range(min(n_gained, n_lost) + 1))
    return min(1.0, 2 * tail / 2**n)


def comparison(ground_truth, results, other, k, path, other_path):
    """Yield the lines that say what `results` gain and lose against `other` results.

    Raises UserError where the two are not of the same videos.
    """
    if set(results) != set(other):
        only = [sorted(set(a).difference(b)) for a, b in ((results, other), (other, results))]
        (n, m), example = map(len, only), next(names[0] for names in only if names)
        raise UserError(
            f"{other_path}: not of the same videos as {path}: {n} are only in that, {m} only in this "
            f"({example}, ...); compare results of the same annotation and subset"
        )
    changes = {"gained": [], "lost": []}
    difference_of, n_of = {}, {}
    for name in results:
        class_name = ground_truth[name]
        n_of[class_name] = n_of.get(class_name, 0) + 1
        before, now = (is_right(ground_truth, of, name, k) for of in (other, results))
        if before != now:
            changes["gained" if now else "lost"].append(name)
            difference_of[class_name] = difference_of.get(class_name, 0) + now - before
    yield f"against {other_path}, {len(results)} videos, top-{k}:"
    for what, names in changes.items():
        yield f"{what}: {len(names)}" + _first(names, " (", ")")
    yield f"McNemar's exact p, two-sided: {mcnemar_p(*map(len, changes.values())):.4g}"
    for class_name, n in sorted(difference_of.items(), key=lambda item: (-abs(item[1]), item[0])):
        if n:
            yield f"{class_name}: {n:+d} of {n_of[class_name]} videos"


def _first(names, before="", after=""):
    """Return the first three names of a list as text, nothing for none."""
    return f"{before}{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}{after}" if names else ""


def check_results(results, annotation, subset, k, path):
    """Raise UserError where the results do not belong to the subset, or are too short for top-k."""
    ground_truth = {video.name for video in annotation.videos[subset]}
    strangers = [name for name in results if name not in ground_truth]
    if strangers:
        raise UserError(
            f"{path}: {len(strangers)} of {len(results)} videos are not of the subset {subset}: "
            f"{', '.join(f'{name!r:.80}' for name in strangers[:3])}; "
            "give the annotation and the --subset that test.py ran on"
        )
    if not results:
        raise UserError(f"{path}: no results in it; run test.py again")
    labels = set(annotation.labels)
    n_wanted = min(k, len(labels))
    for name, pairs in results.items():
        unknown = [label for label, _ in pairs if label not in labels]
        if unknown:
            raise UserError(f"{path}: video {name}: label {unknown[0]!r:.80} is not in the annotation")
        if len(pairs) < n_wanted:
            raise UserError(
                f"{path}: video {name} has {len(pairs)} labels, top-{k} needs {n_wanted}; "
                f"run test.py with --output_topk {k}"
            )


def main(options):
    print("load ground truth")
    annotation = read_annotation(options.ground_truth_path)
    ground_truth = {video.name: video.class_name for video in annotation.videos[options.subset]}
    if not ground_truth:
        raise UserError(f"{options.ground_truth_path}: no video of the subset {options.subset}")
    print(f"number of ground truth: {len(ground_truth)}")

    print("load result")
    results = read_results(options.result_path)
    check_results(results, annotation, options.subset, options.k, options.result_path)
    print(f"number of result: {len(results)}")

    missing = [name for name in ground_truth if name not in results]
    if missing:
        note(
            f"{len(missing)} of {len(ground_truth)} videos have no result and "
            f"{'are left out' if options.ignore else 'count as wrong'}: {_first(missing)}"
        )

    print(f"calculate top-{options.k} accuracy")
    accuracy = top_k_accuracy(ground_truth, results, options.k, options.ignore)
    print(f"top-{options.k} accuracy: {accuracy}")
    if options.save:
        write_file(options.result_path.with_name(f"top{options.k}.txt"), f"{accuracy}\n")

    if options.compare:
        other = read_results(options.compare)
        check_results(other, annotation, options.subset, options.k, options.compare)
        paths = options.result_path, options.compare
        print(*comparison(ground_truth, results, other, options.k, *paths), sep="\n")
    if options.report:
        write_report(options, annotation, results)


def write_report(options, annotation, results):
    """Write report.html beside the results, and say so in a note: stdout keeps its lines."""
    from report import last_header, report_html

    videos = [v for v in annotation.videos[options.subset] if not options.ignore or v.name in results]
    path = options.result_path.with_name("report.html")
    with working("drawing the report"):
        text = report_html(
            annotation.labels,
            videos,
            results,
            source=f"{options.result_path} against {options.ground_truth_path}, subset {options.subset}",
            run=read_run(options.result_path, results),
            training=last_header(options.result_path.with_name("train.jsonl")),
            curves_path=options.result_path.with_name("curves.png"),
            frames_path=options.video_path,
        )
    write_file(path, text.encode("utf-8", "backslashreplace"))
    note(f"{path}: report on {len(videos)} videos", of_success=True)


if __name__ == "__main__":
    run(main, eval_options())
