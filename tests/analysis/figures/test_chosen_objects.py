"""The rule of Figures 1 and 4 on a few objects whose order can be told by hand."""

import pandas as pd
import pytest

from tood.analysis.figures.chosen_objects import Case, caption, choose

CLASSES = ("dining table", "pizza", "dog")
DOG = 2
FILES = {1: "1.png", 2: "b b.png", 3: "3.png"}


def record(image: int, instance: int = 0, **changes: object) -> dict:
    """An object that satisfies the whole rule."""
    return {
        "image_id": image,
        "instance": instance,
        "label": DOG,
        "share": 0.1,
        "crowded": False,
        "distance": 0.5,
        "score": 0.5,
        "classified": 0.6,
        "localised": 0.8,
    } | changes


def both(*records: dict, tood: dict[int, dict] | None = None) -> dict[str, pd.DataFrame]:
    """The objects under both detectors, the same but for `tood`: changes of the n-th."""
    changed = [one | (tood or {}).get(index, {}) for index, one in enumerate(records)]
    return {"ATSS": pd.DataFrame(records), "TOOD": pd.DataFrame(changed)}


def images(choice) -> list[int]:
    return [case.image_id for case in choice.cases]


def test_the_farthest_under_the_baseline_is_first_and_each_is_on_its_own_image():
    records = [
        record(1, 0, distance=0.3),
        record(1, 1, distance=0.9),
        record(2, distance=0.7),
        record(3, distance=0.8),
    ]
    choice = choose(both(*records, tood={2: {"distance": 5.0}}), CLASSES)
    assert choice.cases == [Case(1, 1, 0), Case(3, 0, 0), Case(2, 0, 0)]
    assert (choice.left, choice.total) == (4, 4)
    assert choice.means["ATSS"] == (pytest.approx(2.7 / 4), 4)
    assert choice.means["TOOD"] == (pytest.approx(7.0 / 4), 4)


def test_ties_go_to_the_lowest_image_and_number():
    records = [record(2), record(1, 1), record(1, 0)]
    assert choose(both(*records), CLASSES).cases == [Case(1, 0, 0), Case(2, 0, 0)]


@pytest.mark.parametrize(
    ("fault", "detector", "dropped"),
    [
        ({"share": 0.039}, "both", 4),
        ({"crowded": True}, "both", 3),
        ({"localised": 0.74}, "ATSS", 2),
        ({"localised": 0.74}, "TOOD", 2),
        ({"classified": 0.49}, "TOOD", 1),
    ],
)
def test_each_condition_counts_and_is_dropped_in_its_turn(fault, detector, dropped):
    """The object with the fault is the farthest; the rule takes the other first, then drops conditions."""
    records = [record(1, distance=0.9), record(2, distance=0.1)]
    if detector != "TOOD":
        records[0] |= fault
    sound = {} if detector == "both" else {"localised": 0.8, "classified": 0.6}
    choice = choose(both(*records, tood={0: sound | (fault if detector != "ATSS" else {})}), CLASSES)
    assert choice.cases == [Case(2, 0, 0), Case(1, 0, dropped)]
    assert choice.left == 1


def test_a_badly_classified_box_under_the_baseline_is_no_fault():
    records = [record(1, classified=0.1)]
    assert choose(both(*records, tood={0: {"classified": 0.6}}), CLASSES).left == 1


def test_images_with_a_dining_table_and_a_pizza_go_first():
    records = [
        record(1, distance=0.9),
        record(2, distance=0.2, label=0),
        record(2, 1, distance=0.1, label=1),
        record(3, distance=0.5, label=1),
    ]
    choice = choose(both(*records), CLASSES)
    assert images(choice) == [2, 1, 3]
    assert choice.preferred == 2
    # Not if the rule excludes what is on the image.
    hidden = [one | ({"share": 0.01} if one["image_id"] == 2 else {}) for one in records]
    choice = choose(both(*hidden), CLASSES)
    assert images(choice) == [1, 3, 2]
    assert choice.preferred == 0


def test_an_object_that_a_detector_does_not_touch_is_no_case_but_counts():
    lost = {"distance": None, "score": None, "classified": None, "localised": None}
    records = [record(1, distance=0.9), record(2, distance=0.3)]
    choice = choose(both(*records, tood={0: lost}), CLASSES)
    assert images(choice) == [2]
    assert (choice.left, choice.total) == (1, 2)
    assert choice.means == {"ATSS": (pytest.approx(0.6), 2), "TOOD": (pytest.approx(0.3), 1)}
    with pytest.raises(ValueError, match=r"no object of 1 images .* ATSS, TOOD"):
        choose(both(record(1), tood={0: lost}), CLASSES)
    with pytest.raises(ValueError, match="no object of 0 images"):
        choose({"ATSS": pd.DataFrame(columns=list(record(1)))}, CLASSES)


def test_the_captions_say_the_rule_what_it_left_and_the_means():
    records = [record(1, distance=0.9), record(2, distance=0.3), record(3, crowded=True)]
    choice = choose(both(*records, tood={0: {"distance": 0.1}}), CLASSES)
    first, *others = choice.cases
    text = caption(choice, ["ATSS", "TOOD"], 1, [first], FILES, seed=5)
    first_part, marks, rule = text.strip().split("\n\n")
    assert first_part == (
        "**Figure 1.** Result, scores and IoUs of ATSS and TOOD on one object (Figure 1 of Feng et al., ICCV "
        "2021). It is an example, not the evidence: it was chosen because the best anchors for score and for "
        "IoU are far apart under ATSS, while the best-scored box of TOOD has an IoU of at least 0.5. Over "
        "all 3 objects (seed 5) the mean distance of these anchors, in units of the square root of the "
        "object's area, is 0.567 under ATSS and 0.300 under TOOD: on average they are closer together under "
        "TOOD."
    )
    assert "so the circle may be off the maximum of the map" in marks
    assert rule == (
        "Rule: of the objects that cover at least 4 % of the image, that no crowd and no other object of "
        "their class touches, that both detectors localise somewhere with an IoU of at least 0.75, and whose "
        "best-classified box under TOOD has an IoU of at least 0.5, it has the largest distance between both "
        "best anchors under ATSS; 2 of 3 objects qualified. Images with dining table and pizza go first; "
        "none of the objects is on such an image. The object as options of `tood maps`: `--image 1.png "
        "--object 0`."
    )
    assert "dropping" not in text
    assert "seed" not in caption(choice, ["ATSS", "TOOD"], 1, [first], FILES)
    farther = choose(both(record(1), tood={0: {"distance": 0.9}}), CLASSES)
    assert "farther apart under TOOD" in caption(farther, ["ATSS", "TOOD"], 1, farther.cases, FILES)
    text = caption(choice, ["ATSS", "TOOD"], 4, others, FILES)
    assert text.startswith(
        "**Figure 4.** Results of ATSS and TOOD on 2 further objects, each on another image; drawn and "
        "chosen as in Figure 1. 1 of the 2 shown was chosen after dropping from the rule "
        '"whose best-classified box under TOOD'
    )
    assert ', then "that both detectors localise' in text
    assert ', then "that no crowd' in text
    assert "4 %" not in text.split("dropping")[1]
    assert text.endswith(
        " The objects, in this order, as options of `tood maps`: `--image 'b b.png' --object 0`, "
        "`--image 3.png --object 0`.\n"
    )


def test_classes_that_the_data_lack_are_not_spoken_of():
    choice = choose(both(record(1), record(2)), ("bird", "bee", "dog"))
    assert choice.preferred is None
    text = caption(choice, ["ATSS", "TOOD"], 1, choice.cases[:1], FILES)
    assert "dining table" not in text
    assert text.endswith(
        "the largest distance between both best anchors under ATSS; 2 of 2 objects qualified. The object as "
        "options of `tood maps`: `--image 1.png --object 0`.\n"
    )


def test_a_study_of_one_detector_has_its_own_words():
    choice = choose({"TOOD": pd.DataFrame([record(1)])}, CLASSES)
    text = caption(choice, ["TOOD"], 1, choice.cases, FILES)
    assert "that TOOD localises somewhere" in text
    assert "under TOOD" in text
