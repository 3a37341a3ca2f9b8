"""How a Ray Data graph of this package begins: one block a row, and its own settings."""

import warnings
from typing import Any

import ray.data


def graph_of(rows: list[dict[str, Any]]) -> ray.data.Dataset:
    """A data set with each row in its own block. What is set on its `context` holds for it and what
    is built on it, not for other data sets of the process."""
    # Ray warns of every graph that has less to do than its workers could, such as for a store that
    # is complete.
    warnings.filterwarnings("ignore", message="The (minimum|maximum) number of concurrent ")
    graph = ray.data.from_items(rows, override_num_blocks=len(rows))
    graph.context.enable_progress_bars = False
    graph.context.raise_original_map_exception = True
    # A large file is one task, and a cluster may take its time to grow: neither is a hang.
    graph.context.execution_no_progress_timeout_s = -1
    return graph
