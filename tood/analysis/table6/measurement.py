"""All measurements of a trained run of Table 6, in one pass over the validation images."""

from mmdet.structures import DetDataSample

from tood.analysis.table6.anchors import anchors_of
from tood.analysis.table6.best_anchors import BestAnchors
from tood.analysis.table6.columns import Statistics, count_readings, write_table6
from tood.evaluation.evaluate import evaluate_trained
from tood.evaluation.trained_run import load_trained
from tood.models.common.dense_level import DenseLevel
from tood.runtime.files import read_json, write_json
from tood.study.jobs import AnalysisJob, Execution
from tood.study.paths import RunPaths


def analyse(job: AnalysisJob, execution: Execution, files: RunPaths) -> None:
    """Evaluate, measure Table 6, and find each object's best anchors.

    Args:
        job: what is measured.
        execution: how it is computed.
        files: of these are written `detections`, `evaluated_images`, `ap`, `alignment`, `alignment_variants`,
            `best_anchors`.

    Raises:
        RuntimeError: as `load_trained`.
    """
    trained = load_trained(job, execution)
    statistics = Statistics(trained.model.bbox_head.test_cfg, trained.dataset.cat_ids)
    best = BestAnchors()

    def observe(sample: DetDataSample, levels: list[DenseLevel]) -> None:
        objects = sample.gt_instances
        anchors = anchors_of(levels, objects.bboxes, objects.labels)
        statistics.add(sample, levels, anchors)
        best.add(sample, anchors)

    detections, image_ids = evaluate_trained(trained, job, execution, files, observe)
    unfiltered = statistics.unfiltered(image_ids)
    counts = count_readings(read_json(trained.annotations), detections, image_ids, unfiltered)
    write_table6(job, statistics.alignment(image_ids), counts, files)
    write_json(files.best_anchors, best.to_json(image_ids))
