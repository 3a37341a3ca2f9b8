"""`longva plan`: what a training step needs in memory, and the longest sequence that fits."""

import json

from longva_ray.planner.report import PlanOptions as Options
from longva_ray.planner.report import make_plan, print_plan
from longva_ray.recipes import get_recipe


def run(options: Options) -> int:
    """Print the plan as tables, or as JSON."""
    from rich.console import Console

    plan = make_plan(options, get_recipe(options.recipe))
    if options.json:
        print(json.dumps(plan, indent=2))
    else:
        print_plan(plan, Console())
    return 0
