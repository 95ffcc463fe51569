"""The rule that chooses the objects of Figures 1 and 4, because the paper does not name its images."""

import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

# The paper's figure shows a dining table with a pizza; if an image of the data has both, so does ours.
PREFERRED = ("dining table", "pizza")
FIGURE4 = 4  # objects in Figure 4
LEAST_SHARE, LEAST_LOCALISED, LEAST_CLASSIFIED = 0.04, 0.75, 0.5
KEYS = ["image_id", "instance"]


class Case(NamedTuple):
    """An object to show, and how many conditions of the rule were dropped for it, from the last on."""

    image_id: int
    instance: int
    dropped: int


class Choice(NamedTuple):
    """The result of the rule on a data set."""

    cases: list[Case]  # Figure 1's first, then Figure 4's, each on an image of its own
    left: int  # objects that satisfy the whole rule
    total: int  # objects without crowds
    # Of those that satisfy the rule, on images with both preferred classes; None: the data lack one of these
    preferred: int | None
    means: dict[str, tuple[float, int]]  # by detector: distance in object sizes, over how many objects


def conditions(names: Sequence[str]) -> dict[str, Callable[[pd.DataFrame], pd.Series]]:
    """The rule in words, each with its test of the objects; the last is the first to be dropped.

    Args:
        names: of the detectors, the baseline first and the aligned one last.
    """
    last = names[-1]
    who = "both detectors localise" if len(names) == 2 else f"{' and '.join(names)} localises"
    return {
        f"that cover at least {100 * LEAST_SHARE:.0f} % of the image": lambda objects: (
            objects["share"] >= LEAST_SHARE
        ),
        "that no crowd and no other object of their class touches": lambda objects: ~objects["crowded"],
        f"that {who} somewhere with an IoU of at least {LEAST_LOCALISED}": lambda objects: (
            objects[[f"localised {name}" for name in names]] >= LEAST_LOCALISED
        ).all(axis=1),
        f"whose best-classified box under {last} has an IoU of at least {LEAST_CLASSIFIED}": lambda objects: (
            objects[f"classified {last}"] >= LEAST_CLASSIFIED
        ),
    }


def choose(detectors: Mapping[str, pd.DataFrame], classes: Sequence[str]) -> Choice:
    """The objects that satisfy the rule and whose best anchors are farthest apart under the baseline.

    Objects on images with both classes of `PREFERRED` go first. No two objects are on the same image. If too
    few objects satisfy the rule, its last condition is dropped for the others, then the condition before it,
    and so on. Of equal objects, the object with the lowest image id, then with the lowest number, goes first.
    There are fewer than both figures show if fewer images have an object that all detectors touch.

    Args:
        detectors: by name, the baseline first: rows of `ObjectRecord`, of the same objects.
        classes: name of each label.

    Raises:
        ValueError: no object of the images is touched by a box of each detector.
    """
    objects, names = _joined(detectors), list(detectors)
    distances = [f"distance {name}" for name in names]
    means = {
        name: (float(objects[column].mean()), int(objects[column].count()))
        for name, column in zip(names, distances, strict=True)
    }
    known = objects.dropna(subset=distances)
    if known.empty:
        images = objects["image_id"].nunique()
        raise ValueError(
            f"no object of {images} images is touched by boxes of its class under all of {', '.join(names)}"
        )
    known = known.assign(preferred=_preferred(objects, classes).reindex(known["image_id"]).to_numpy())
    known = known.sort_values(
        ["preferred", distances[0], *KEYS], ascending=[False, False, True, True], kind="stable"
    )
    passes = pd.concat([test(known) for test in conditions(names).values()], axis=1)
    cases: list[Case] = []
    for dropped in range(passes.shape[1] + 1):
        kept = known[passes.iloc[:, : passes.shape[1] - dropped].all(axis=1)]
        if dropped == 0:
            left, preferred = len(kept), int(kept["preferred"].sum())
        for image, instance in kept.drop_duplicates("image_id")[KEYS].itertuples(index=False):
            if len(cases) < 1 + FIGURE4 and image not in {case.image_id for case in cases}:
                cases.append(Case(int(image), int(instance), dropped))
    known_classes = set(PREFERRED) <= set(classes)
    return Choice(cases, left, len(objects), preferred if known_classes else None, means)


def caption(
    choice: Choice,
    names: Sequence[str],
    figure: int,
    shown: Collection[Case],
    files: Mapping[int, str],
    seed: int | None = None,
) -> str:
    """The caption of Figure 1 or 4 in Markdown: what it shows and why; of Figure 1 also marks and rule.

    Args:
        choice: the result of the rule on the data.
        names: of the detectors, the baseline first.
        figure: 1 or 4.
        shown: the objects in it.
        files: name of each shown image in the annotation file, by its id.
        seed: of the trained detectors.
    """
    rule, who = list(conditions(names)), " and ".join(names)
    excused = _excused(rule, shown) + _as_options(shown, files)
    if figure == 4:
        again = set(shown) == {choice.cases[0]}
        further = f"{len(shown)} further object{'s' * (len(shown) != 1)}, each on another image"
        what = "the object of Figure 1, as no other image has one" if again else further
        return f"**Figure 4.** Results of {who} on {what}; drawn and chosen as in Figure 1.{excused}\n"
    marks = (
        "S: of the candidates, the anchor with the highest score for the object's class, and its box. A "
        "candidate's box overlaps the object, and no other object of the class more; so the circle may be "
        "off the maximum of the map. I: the anchor with the highest IoU, and its box. The square under a "
        "mark is the anchor's cell. An arrow leads from the object's centre to a best anchor that is farther "
        "away than a stride. What has no box has no annotation. All scores have one scale of colours."
    )
    selection = (
        f"Rule: of the objects {', '.join(rule[:-1])}, and {rule[-1]}, it has the largest distance between "
        f"both best anchors under {names[0]}; {choice.left:,} of {choice.total:,} objects qualified."
        f"{_preferences(choice)}{excused}"
    )
    return (
        f"**Figure 1.** Result, scores and IoUs of {who} on one object (Figure 1 of Feng et al., ICCV 2021). "
        f"It is an example, not the evidence: {_purpose(names, shown)}. {_means(choice, names, seed)}\n\n"
        f"{marks}\n\n{selection}\n"
    )


def _as_options(shown: Collection[Case], files: Mapping[int, str]) -> str:
    """The objects in their order in the figure, as `tood maps` takes them."""
    options = [f"--image {shlex.quote(files[case.image_id])} --object {case.instance}" for case in shown]
    fence = "``" if "`" in "".join(options) else "`"
    objects = "object" if len(options) == 1 else "objects, in this order,"
    return (
        f" The {objects} as options of `tood maps`: {', '.join(f'{fence}{each}{fence}' for each in options)}."
    )


def _purpose(names: Sequence[str], shown: Collection[Case]) -> str:
    """What the choice makes the figure show."""
    far = f"it was chosen because the best anchors for score and for IoU are far apart under {names[0]}"
    if len(names) == 1 or any(case.dropped for case in shown):
        return far
    return f"{far}, while the best-scored box of {names[-1]} has an IoU of at least {LEAST_CLASSIFIED}"


def _means(choice: Choice, names: Sequence[str], seed: int | None) -> str:
    """The mean distance over all objects, and whether it agrees with what the figure shows."""
    means = " and ".join(
        f"{mean:.3f} under {name}" + (f" ({count:,} objects)" if count != choice.total else "")
        for name, (mean, count) in choice.means.items()
    )
    first, last = choice.means[names[0]][0], choice.means[names[-1]][0]
    compared = {True: "farther apart", False: "closer together"}[last > first]
    so = f": on average they are {compared} under {names[-1]}" if len(names) > 1 and last != first else ""
    of_seed = "" if seed is None else f" (seed {seed})"
    return (
        f"Over all {choice.total:,} objects{of_seed} the mean distance of these anchors, in units of the "
        f"square root of the object's area, is {means}{so}."
    )


def _preferences(choice: Choice) -> str:
    """How many objects went first because of the other objects on their image; empty for other classes."""
    if choice.preferred is None:
        return ""
    images = f" Images with {' and '.join(PREFERRED)} go first"
    if choice.preferred:
        return f"{images}: {choice.preferred:,} of the objects are on such."
    return f"{images}; none of the objects is on such an image."


def _excused(rule: Sequence[str], shown: Collection[Case]) -> str:
    """A sentence for each number of conditions that were dropped for objects in the figure."""
    sentences = ""
    for dropped in sorted({case.dropped for case in shown} - {0}):
        number = sum(case.dropped == dropped for case in shown)
        lacking = ", then ".join(f'"{condition}"' for condition in reversed(rule[-dropped:]))
        sentences += (
            f" {number} of the {len(shown)} shown {'was' if number == 1 else 'were'} chosen after dropping "
            f"from the rule {lacking}."
        )
    return sentences


def _joined(detectors: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per object, with the columns that differ between detectors named after them."""
    first = next(iter(detectors.values()))
    shared = first[[*KEYS, "label", "share", "crowded"]].astype({"crowded": bool})
    for name, records in detectors.items():
        own = records.set_index(KEYS)[["distance", "localised", "classified"]].astype(float)
        shared = shared.merge(own.add_suffix(f" {name}").reset_index(), on=KEYS, validate="one_to_one")
    return shared


def _preferred(objects: pd.DataFrame, classes: Sequence[str]) -> pd.Series:
    """Whether an image has objects of all preferred classes, by image id."""
    named = objects["label"].map(dict(enumerate(classes)))
    return named.groupby(objects["image_id"]).agg(lambda present: set(PREFERRED) <= set(present))
