"""Memory of weights, gradients and optimizer: nothing here depends on the length.

They follow the ZeRO paper (https://arxiv.org/abs/1910.02054, section 3.1: 12 bytes of optimizer
state a parameter) and the defaults of DeepSpeed's buffers
(https://www.deepspeed.ai/docs/config-json/); they are computed, not measured.
Weights that do not learn (tower, projector, a reference model) have no gradients and no optimizer
states. Letters in formulas: P parameters, b bytes of a weight.
"""

from longva_ray.planner.setup import Setup
from longva_ray.planner.term import Term
from longva_ray.planner.vision import Trained

LIVE_PARAMETERS, REDUCE_BUCKET = 1_000_000_000, 500_000_000
"""DeepSpeed's stage3_max_live_parameters and reduce_bucket_size."""


def state_terms(setup: Setup) -> list[Term]:
    """Weights, gradients, optimizer, and the buffers of ZeRO.

    With all of it on the host 18 bytes a parameter, as DeepSpeed's
    `estimate_zero3_modelstate_terms_mem_needs` has it before its safety factor.
    """
    train, b = setup.train, setup.itemsize
    weights, stage = Trained.of(setup), train.zero_stage
    count = weights.learning

    def share(first_stage: int, of: int = count) -> float:
        return of / setup.gpus if stage >= first_stage else float(of)

    def place(name: str, formula: str, size: float, *, away: bool) -> Term:
        gpu, host = (0.0, size) if away else (size, 0.0)
        return Term(name=name, formula=formula, gpu=gpu, host=host)

    offload = train.offload and stage >= 1
    offload_gradients = train.offload and stage >= 2
    # In plain float32 training the weights are their own master copy.
    optimizer_bytes = 12 if stage >= 1 else 8
    frozen = []
    if weights.frozen:
        size = b * share(3, weights.frozen)
        name, formula = "weights that do not learn", "b P, / GPUs from ZeRO-3"
        frozen.append(place(name, formula, size, away=offload and stage == 3))
    found = [
        place("weights", "b P, / GPUs from ZeRO-3", b * share(3), away=offload and stage == 3),
        *frozen,
        place(
            "gradients",
            "b P, / GPUs from ZeRO-2; 4 bytes on the host",
            (4 if offload_gradients else b) * share(2),
            away=offload_gradients,
        ),
        place(
            "optimizer and master weights",
            "12 P (8 P without ZeRO), / GPUs from ZeRO-1",
            optimizer_bytes * share(1),
            away=offload,
        ),
    ]
    if stage >= 1:
        bucket = b * min(count, REDUCE_BUCKET)
        found.append(Term(name="gradient bucket", formula="b x 0.5e9 parameters", gpu=bucket))
    if stage == 3:
        live = b * min(count + weights.frozen, LIVE_PARAMETERS)
        found.append(Term(name="gathered weights", formula="b x 1e9 parameters", gpu=live))
    return found
