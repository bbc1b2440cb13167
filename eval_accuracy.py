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

and with `--compare` what is gained and lost against other results of the same videos. `--fuse` takes the mean
of both scores, as of a network of RGB and one of flow. `--report`
writes results/report.html: what was taken for what, the worst mistakes with their frames, the run.
"""
from datasets.annotation import read_annotation, read_results, read_run
from opts import eval_options
from report.accuracy import (
    check_results,
    class_name_of,
    comparison,
    is_right,
    note_missing,
    top_k_accuracy,
)
from report.fusion import fusion
from run.accuracy import mean_class_accuracy
from run.console import note, run_script, working
from run.files import atomic_write
from run.spec import Protocol


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

    of_classes = mean_class_accuracy(
        (name, is_right(ground_truth, results, key, options.k))
        for key, name in ground_truth.items()
        if not options.ignore or key in results
    )
    if options.mean_class:
        print(f"mean class accuracy: {of_classes}")
    if options.save:
        for name, value in ((f"top{options.k}", accuracy), (f"top{options.k}_mean_class", of_classes)):
            atomic_write(options.result_path.with_name(f"{name}.txt"), f"{value}\n")
    run = read_run(options.result_path, results)
    note_views(options.result_path, run[0])
    if options.compare:
        other = read_results(options.compare)
        check_results(other, annotation, options.subset, options.k, options.compare)
        paths = options.result_path, options.compare
        print(*comparison(ground_truth, results, other, options.k, *paths), sep="\n")
    if options.fuse:
        other = read_results(options.fuse)
        check_results(other, annotation, options.subset, options.k, options.fuse)
        paths = options.result_path, options.fuse
        print(
            *fusion(
                ground_truth, results, other, annotation.class_names, options.k, paths, options.ignore
            ),
            sep="\n",
        )
    if options.report:
        write_report(annotation, results, run, options)


def note_views(path, run):
    """Note how many views a video was scored by, if that is not the reference's way; None if unknown."""
    views = Protocol.from_json((run or {}).get("protocol", {}), path).views
    if views:
        note(f"{path}: scored by {views} a video")


def write_report(annotation, results, run, options):
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
            run=run,
            training=last_header(options.result_path.with_name("train.jsonl")),
            curves_path=options.result_path.with_name("curves.png"),
            frames_path=options.video_path,
            maps_path=options.result_path.with_name(f"{options.result_path.stem}_cam.json"),
        )
    atomic_write(path, text.encode("utf-8", "backslashreplace"))
    note(f"{path}: report on {len(samples)} videos", of_success=True)


if __name__ == "__main__":
    run_script(main, eval_options())
