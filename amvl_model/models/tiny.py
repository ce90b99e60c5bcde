"""The embedded default: a Qwen2.5-VL of three million parameters and its tokenizer.

Everything here is transformers' own Qwen2.5-VL built from a small config, so that whatever runs on the tiny model runs on
Qwen2.5-VL-7B. An image of 112 x 112 pixels becomes 8 x 8 patches and 4 x 4 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.synthetic import TASKS, synthetic_blink
from amvl_model.two_pass.attention import install_attention

# The tokens of Qwen2.5-VL's vocabulary that the chat template and the model's config refer to.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2.5-VL's chat template without its default system message, which would be a third of a tiny prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Qwen2.5's own pre-tokenisation: contractions, words with one leading symbol, single digits, punctuation, white space.
_PRETOKENIZER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

IMAGE_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}


def tiny_tokenizer(corpus: Iterable[str], vocab_size: int = 640) -> Any:
    """Train a byte-level BPE tokenizer with Qwen's special tokens and chat template on ``corpus``.

    Any text can be encoded; text like the corpus is encoded in about a token a word.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRETOKENIZER), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:2] + SPECIAL_TOKENS[3:]),
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def qwen_config(tokenizer: Any, *, text: dict[str, Any], vision: dict[str, Any]) -> Any:
    """Qwen2_5_VLConfig of the given shapes whose token ids, and vocabulary, are those of ``tokenizer``."""
    from transformers import Qwen2_5_VLConfig

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 64) * 64,
            "rms_norm_eps": 1e-6,
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            **text,
        },
        vision_config={"out_hidden_size": text["hidden_size"], "patch_size": 14, "spatial_merge_size": 2, **vision},
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def tiny_config(tokenizer: Any, *, hidden_size: int = 192, num_layers: int = 4, vision_size: int = 128) -> Any:
    """Qwen2_5_VLConfig of about three million parameters whose token ids are those of ``tokenizer``."""
    head_dim = 32
    return qwen_config(
        tokenizer,
        text={
            "hidden_size": hidden_size,
            "intermediate_size": round(hidden_size * 8 / 3 / 64) * 64,
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // head_dim,
            "num_key_value_heads": max(1, hidden_size // head_dim // 3),
            "max_position_embeddings": 4096,
            # head_dim / 2 = 16 rotary frequencies: 4 for time, 6 for height, 6 for width
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        },
        vision={
            "depth": 4,
            "hidden_size": vision_size,
            "intermediate_size": vision_size * 3,
            "num_heads": vision_size // 32,
            "window_size": 112,
            "fullatt_block_indexes": [1, 3],
        },
    )


def tiny_image_processor() -> Any:
    """transformers' PIL image processor for Qwen2.5-VL at the tiny model's image size (no torchvision needed)."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(size=dict(IMAGE_PIXELS))


@cache  # behind each text stands a question, which is drawn
def text_corpus(per_task: int = 200) -> tuple[str, ...]:
    """Prompts and answers of every task: what the tiny tokenizer is trained on."""
    texts = []
    for task in TASKS:
        for index in range(per_task):
            record = synthetic_blink(task, split="train", seed=1, index=index)
            texts += [f"user\n{record['prompt']}", f"assistant\n{record['answer']}", f"\n{record['explanation']}"]
    return tuple(texts)


def build_base(
    seed: int = 0, *, hidden_size: int = 192, num_layers: int = 4, vision_size: int = 128, vocab_size: int = 640
) -> tuple[Any, AMVLProcessor]:
    """A randomly initialised tiny Qwen2.5-VL and its processor; arguments as in `tiny_config` and `tiny_tokenizer`."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = tiny_tokenizer(text_corpus(), vocab_size)
    processor = AMVLProcessor(tokenizer, tiny_image_processor())
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(
        tiny_config(tokenizer, hidden_size=hidden_size, num_layers=num_layers, vision_size=vision_size)
    )
    install_attention(model)
    return model, processor
