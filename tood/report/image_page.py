"""The page that describes generated images, from their data sheet."""

from collections.abc import Mapping
from typing import Any

from tood.report.markup import markdown_table
from tood.report.tables import FEWEST


def image_page(sheet: Mapping[str, Any], name: str) -> str:
    """The page in Markdown.

    Args:
        sheet: as `tood.analysis.data_sheet.data_sheet` returns it.
        name: of the study; the picture beside the page is NAME_images.png.
    """
    splits, hue = sheet["splits"], sheet["hue"]
    body = [
        [label, *(f"{split[key]:,}" for split in splits.values())]
        for key, label in (
            ("images", "Images"),
            ("images_without_objects", "Images without objects"),
            ("crowds", "Crowd regions"),
            ("objects", "Objects"),
        )
    ]
    body += [
        [label.format(part), *(format(split[key][part], spec) for split in splits.values())]
        for key, label, spec in (
            ("objects_by_size", "Objects, {} mask", ","),
            ("objects_by_class", "Objects, {}", ","),
            ("mask_area", "Area of the mask, pixels, percentile {}", ",.1f"),
            ("box_side", "Square root of the box's area, pixels, percentile {}", ",.1f"),
            ("centres_inside", "Anchor centres in the box, percentile {}", ",.1f"),
            ("share_with_fewer_centres", "Objects with fewer than m = {} anchor centres", ".1%"),
        )
        for part in splits["val2017"][key]
    ]
    few = [size for size, count in splits["val2017"]["objects_by_size"].items() if count < FEWEST]
    size = " × ".join(map(str, sheet["drawing"]["image_size"]))
    caution = (
        f" AP by size is of no use for {' and '.join(few)} objects, of which there are fewer than {FEWEST}."
    )
    return "\n".join(
        [
            f"# The images of `{name}`\n",
            "`tood images` draws them, measures what is here, and writes this page.\n",
            f"![The first validation images]({name}_images.png)\n",
            f"Images have {size} pixels. Small, medium and large are COCO's ranges of size: mask areas below "
            f"32², below 96², and above.{caution if few else ''}\n",
            f"Hue does not tell the class. Nearest neighbours on the mean hue of an object are right for "
            f"{hue['accuracy']:.1%} of the validation objects; always naming the largest class is right for "
            f"{hue['largest_class']:.1%}.\n",
            markdown_table("**Data sheet.**", ["", *splits], body, 1, []),
        ]
    )
