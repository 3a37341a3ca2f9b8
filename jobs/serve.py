"""Serve chat and scoring over encoded videos by HTTP, until interrupted.

ray job submit --working-dir . -- python jobs/serve.py --store s3://bucket/shards
"""

import logging

import ray

from longva_ray.cluster.job import run_job
from longva_ray.options import parse
from longva_ray.serving.run import ServeOptions, serve_until_stopped


def main() -> int:
    options = parse(ServeOptions)
    ray.init(ignore_reinit_error=True)
    serve_until_stopped(options.app_args())
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    run_job(main)
