"""longva_ray: a video goes in, an answer comes out.

    video -> frames -> visual tokens -> embedding shards -> long-context LM -> answer
            (Ray Data)                                      (Ray Train trains it, Ray Serve asks it)

One folder for each product along the way: `video`, `vision`, `shards`, `ring` + `lm`, `answer`;
then `train`, `evaluate` and `serving`, which use them. Nothing runs at import."""

__version__ = "0.1.0"
