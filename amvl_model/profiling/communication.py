"""What FSDP2 exchanges in a step, and the hours of a run, computed without torch; nothing here is measured.

What happens was read in the sources of torch 2.13, transformers 5.24 and accelerate 1.15. Each decoder layer is a unit: its
weights are gathered before it computes and given back behind it, in their stored type (training/sharding.py keeps FSDP2 from
casting them). AMVL computes two passes, so a layer's weights are gathered four times a micro-batch: for pass 1, pass 2, and the
backward pass of each (recomputation uses those of the backward pass). With P processes, A micro-batches a step, w bytes a weight:

    gathered   w (P - 1)/P (2 passes N_layers + N_output + 2 N_embedding + N_vision + N_latent)   received, a micro-batch
    reduced    w (P - 1)/P N_trained                                                              sent, a step

passes is 2, and 1 for sft and pause. The output layer stays gathered from its forward to its backward pass; the frozen vision
encoder has no backward pass. Gradients are reduced once a step, as transformers' Trainer accumulates within accelerate's
``no_sync``, which is ``set_requires_gradient_sync(False)``: between micro-batches every process keeps the gradients of all
trained weights whole (`Footprint.accumulated`). With accelerate's ``sync_each_batch`` they are reduced, and stay sharded, in
every micro-batch.

The hours assume `QUESTION_TOKENS` a question, `EFFICIENCY` of `PEAK_FLOPS`, and `LINK` bytes a second in each direction. Exchange
and computation overlap in part: the truth lies between the longer of the two and their sum, which is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from amvl_model.config import RunConfig
from amvl_model.profiling.footprint import Architecture, architecture_of, footprint, weight_bytes

QUESTION_TOKENS = 1100  # a typical row, of which the images have 950
IMAGE_TOKENS = 950
PEAK_FLOPS = 989e12  # H100 SXM, dense bf16
EFFICIENCY = 0.3
LINK = 300e9  # bytes a second that NVLink 4 is allowed of its 450e9 in each direction
PLAIN = ("sft", "pause")


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """One optimiser step of a process.

    Attributes:
        gathered: bytes of weights received, a micro-batch.
        reduced: bytes of gradients sent, a step.
        micro_batches: A.
        computing, exchanging: seconds a step.
    """

    gathered: int
    reduced: int
    micro_batches: int
    computing: float
    exchanging: float

    @property
    def exchanged(self) -> int:
        """Bytes a step, received and sent."""
        return self.micro_batches * self.gathered + self.reduced

    def hours(self, steps: int) -> float:
        """Of training, without any overlap of computing and exchanging."""
        return steps * (self.computing + self.exchanging) / 3600


def question_flops(shape: Architecture, *, checkpointing: bool) -> float:
    """FLOP of a question: 2 a parameter and token forward, 4 backward, 2 more for recomputation; the frozen vision encoder
    forward alone, over four patches an image token."""
    language = (8 if checkpointing else 6) * shape.language_parameters * QUESTION_TOKENS
    return float(language + 2 * shape.vision_parameters * 4 * IMAGE_TOKENS)


def step_cost(config: RunConfig, processes: int) -> StepCost | None:
    """What a step costs on ``processes`` GPUs under FSDP2, or None if the base's shapes are unknown here.

    Raises:
        ValueError: for a trained vision encoder or LoRA, of which the formulas above say nothing.
    """
    shape, size = architecture_of(config.model), footprint(config)
    if shape is None or size is None:
        return None
    if not config.model.freeze_vision or config.model.lora_rank:
        raise ValueError(
            "expected full fine-tuning with a frozen vision encoder, got LoRA or a trained vision encoder; the exchange of "
            "those is not computed"
        )
    train, table = config.train, shape.vocab * shape.hidden
    layers = shape.language_parameters - table * (1 if shape.tied else 2)
    latents = size.trained - shape.language_parameters
    passes = 1 if config.objective.name in PLAIN else 2
    weights = 2 * passes * layers + table + (0 if shape.tied else 2 * table) + shape.vision_parameters + latents
    sent = weight_bytes(config) * (processes - 1) / processes
    gathered, reduced = round(sent * weights), round(sent * size.trained)
    questions = train.batch_size * train.grad_accumulation
    flops = questions * question_flops(shape, checkpointing=train.gradient_checkpointing)
    return StepCost(
        gathered=gathered,
        reduced=reduced,
        micro_batches=train.grad_accumulation,
        computing=flops / (EFFICIENCY * PEAK_FLOPS),
        exchanging=(train.grad_accumulation * gathered + reduced) / LINK,
    )
