"""How large the images of datasets are, and what UniRes and AnyRes make of them: Figure 5.

    python jobs/image_sizes.py --recipe longva_7b --data /data/infovqa /data/llava/mix.json \\
        --image-folder /data/llava --out sizes

Takes folders of images, and LLaVA's JSON, JSON lines and YAML mixtures. Writes image_sizes.json and
image_sizes.png to --out. Reads no pixels, and needs no Ray."""

import json
from dataclasses import dataclass

from longva_ray.cluster.job import run_job
from longva_ray.files.places import absolute, check_there, local_path
from longva_ray.options import find_checkpoint, parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Sizes, grids and tokens of images (section 5.3 of the paper)."""

    data: tuple[str, ...]
    """Folders of images, or .json, .jsonl and .yaml files; a row of the figure each."""
    image_folder: str | None = None
    """What the image paths of a JSON file are relative to; None, the file's own folder."""
    out: str = "outputs/image_sizes"
    """Folder for the report and the figure."""
    recipe: str = "tiny"
    """Named set-up that everything else starts from."""
    model: str | None = None
    """LongVA checkpoint whose grids are counted, instead of the recipe's."""


def main(options: Options) -> int:
    out = local_path(options.out)
    places = [absolute(place) for place in options.data]
    check_there(places)
    folder = None if options.image_folder is None else absolute(options.image_folder)
    checkpoint = find_checkpoint(options.model, options.recipe)
    from longva_ray.data.images.sizes import measure_images, summarise
    from longva_ray.data.images.sizes_figure import draw_sizes
    from longva_ray.lm.layout import load_longva_config

    grids = load_longva_config(checkpoint).grids
    datasets = [measure_images(place, image_folder=folder) for place in places]
    summaries = [summarise(sizes, grids) for sizes in datasets]
    out.mkdir(parents=True, exist_ok=True)
    report = {"checkpoint": checkpoint, "grid_size": grids.grid_size, "datasets": summaries}
    (out / "image_sizes.json").write_text(json.dumps(report, indent=2) + "\n")
    draw_sizes(datasets, summaries, out / "image_sizes.png")
    for each in summaries:
        width, height = each["median_width_height"]
        print(f"{each['name']}: {each['images']:,} images, median {width:g} x {height:g}")
        for encoding in ("unires", "anyres"):
            found = each[encoding]
            print(
                f"  {encoding}: {found['mean_grids']:.1f} grids and {found['mean_tokens']:,.0f} "
                f"tokens an image, at most {found['most_tokens']:,}"
            )
        if each["left_out"]:
            print(f"  {len(each['left_out'])} left out, see image_sizes.json")
    print(f"report and figure: {out}")
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
