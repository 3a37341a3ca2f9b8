"""How a Ray Data graph of this package begins: each row a block, and settings of its own."""

import warnings
from typing import Any

import ray.data


def graph_of(rows: list[dict[str, Any]]) -> ray.data.Dataset:
    """A data set with every row in a block by itself. What is set on its `context` holds for it and
    what is built on it, not for other data sets of the process."""
    # Said of every graph that has less to do than workers could, as for a store that is complete.
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks for")
    graph = ray.data.from_items(rows, override_num_blocks=len(rows))
    graph.context.enable_progress_bars = False
    graph.context.raise_original_map_exception = True
    # A large file is one task, and a cluster may take its time to grow: neither is a hang.
    graph.context.execution_no_progress_timeout_s = -1
    return graph
