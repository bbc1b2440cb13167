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
"""
from datasets.annotation import read_annotation, read_results
from disk import write_file
from opts import UserError, eval_options, note, run


def top_k_accuracy(ground_truth, results, k, ignore=False):
    """Return the part of videos whose class is among the first `k` labels of their result.

    `ground_truth` maps a video to its class name, `results` to its `(label, score)` pairs, best
    first. A video without a result counts as wrong, or with `ignore` not at all.
    Reference: `util_scripts/eval_accuracy.py`.
    """
    names = [name for name in ground_truth if not ignore or name in results]
    n_correct = sum(
        ground_truth[name] in [label for label, _ in results.get(name, [])[:k]] for name in names
    )
    return n_correct / len(names)


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
            f"{'are left out' if options.ignore else 'count as wrong'}: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )

    print(f"calculate top-{options.k} accuracy")
    accuracy = top_k_accuracy(ground_truth, results, options.k, options.ignore)
    print(f"top-{options.k} accuracy: {accuracy}")
    if options.save:
        write_file(options.result_path.with_name(f"top{options.k}.txt"), f"{accuracy}\n")


if __name__ == "__main__":
    run(main, eval_options())
