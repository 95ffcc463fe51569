"""Ids for COCO's evaluation: any ids of a user become 1, 2, 3, ..."""

from collections.abc import Iterable, Sequence


def renumbered(truth: dict, detections: Sequence[dict], image_ids: Iterable[int]) -> tuple[dict, list[dict]]:
    """Annotations and detections of some images, with ids from 1 in the order of the given ones.

    COCO's evaluation reads annotation 0 as "no match", and compiled evaluations store ids in 64 bits, some
    without a sign. Users' ids may be 0, negative, or hashes of any size. The order of the ids stays, because
    it decides between equal scores.

    Args:
        truth: content of a COCO annotation file.
        detections: COCO results.
        image_ids: images that count; annotations and detections on others are left out.

    Returns:
        new annotations with the keys that an evaluation of boxes reads, and new results

    Raises:
        ValueError: a detection is on an image, or of a category, that the annotations do not list.
    """
    require_known(truth, detections)
    chosen = set(image_ids)
    images = _numbers(image["id"] for image in truth["images"] if image["id"] in chosen)
    categories = _numbers(category["id"] for category in truth["categories"])

    def place(entry: dict) -> dict:
        image, category = images[entry["image_id"]], categories[entry["category_id"]]
        return {"image_id": image, "category_id": category, "bbox": list(entry["bbox"])}

    annotated = (entry for entry in truth["annotations"] if entry["image_id"] in images)
    annotations = [
        place(entry) | {"id": number, "area": entry["area"], "iscrowd": int(bool(entry.get("iscrowd")))}
        for number, entry in enumerate(annotated, 1)
    ]
    results = [
        place(detection) | {"score": detection["score"]}
        for detection in detections
        if detection["image_id"] in images
    ]
    tables = {"images": images, "categories": categories}
    listed = {name: [{"id": number} for number in ids.values()] for name, ids in tables.items()}
    return listed | {"annotations": annotations}, results


def _numbers(ids: Iterable[int]) -> dict[int, int]:
    """The place of each id in their order, from 1."""
    return {id_: number for number, id_ in enumerate(sorted(ids), 1)}


def require_known(truth: dict, detections: Sequence[dict]) -> None:
    """Make sure that detections belong to the annotations.

    Args:
        truth: content of a COCO annotation file.
        detections: COCO results.

    Raises:
        ValueError: a detection is on an image, or of a category, that the annotations do not list.
    """
    for key, table in (("image_id", "images"), ("category_id", "categories")):
        if unknown := {detection[key] for detection in detections} - {entry["id"] for entry in truth[table]}:
            raise ValueError(f"detections with {key} {sorted(unknown)[:5]} not among the {table}")
