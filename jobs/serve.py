"""Serve chat and scoring over encoded videos by HTTP, until the job is stopped.

    ray job submit --working-dir . -- python jobs/serve.py --store s3://bucket/shards

The log says at which address. An API key comes from $LONGVA_API_KEY."""

from longva_ray.cluster.job import connect, run_job
from longva_ray.commands.serve import Options
from longva_ray.options import parse


def main(options: Options) -> int:
    args = options.app_args()
    from longva_ray.serving.run import serve_until_stopped

    connect()
    serve_until_stopped(args)
    return 0


if __name__ == "__main__":
    run_job(lambda: main(parse(Options)))
