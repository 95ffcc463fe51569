"""Detect on the validation images and measure COCO AP."""

import sys
from pathlib import Path

from tood.evaluation.detection import coco_ap, detect
from tood.evaluation.trained_run import evaluation_parser, load_trained
from tood.runtime.files import write_json
from tood.study.provenance import measured_identity


def main() -> None:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--evaluation", required=True, help="digest of how this measures")
    parser.add_argument("--detections", type=Path, required=True, help="COCO results, written")
    parser.add_argument("--output", type=Path, required=True, help="metrics, written")
    args = parser.parse_args()
    try:
        trained = load_trained(args)
    except RuntimeError as error:
        sys.exit(f"evaluate: {error}")
    records, image_ids = detect(
        trained.model,
        trained.dataset,
        device=trained.device,
        label=f"evaluate {args.settings[0]['run']['id']}",
        batch_size=args.batch_size,
        workers=args.workers,
        indices=trained.indices,
    )
    write_json(args.detections, {"image_ids": image_ids, "detections": records})
    identity = measured_identity(args.model[0], args.evaluation)
    write_json(args.output, {**coco_ap(trained.annotations, records, image_ids), "identity": identity})


if __name__ == "__main__":
    main()
