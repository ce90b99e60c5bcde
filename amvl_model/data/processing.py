"""From questions to padded tensors, with transformers' PIL image processor and tokenizer and nothing else.

`Qwen2_5_VLProcessor` needs torchvision for its video half; this processor does pictures only and does not. Queries are
padded on the right: the latent block then stands at the same place of every row, and the query needs no N x N mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amvl_model.data.images import to_rgb
from amvl_model.data.schema import VisualQuestion

IMAGE_PLACEHOLDER = "<image>"
_IMAGE_TOKEN = "<|image_pad|>"
_RESERVED = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", _IMAGE_TOKEN, "<|video_pad|>")


class AMVLProcessor:
    """Turns `VisualQuestion` objects into model inputs.

    A batch holds (B questions, N query tokens, M answer tokens, P patches, I pictures):

    - ``input_ids``, ``attention_mask``, ``mm_token_type_ids``: (B, N), right-padded; the query x in the backbone's chat
      template, ending where the assistant's turn begins. Token types: 0 text, 1 picture.
    - ``pixel_values`` (P, patch values) and ``image_grid_thw`` (I, 3): as the backbone's vision tower takes them.
    - ``answer_ids``, ``answer_mask``: (B, M), right-padded; the answer y with its end-of-turn token.

    Pictures stand before the text, or where the prompt says ``<image>``.
    """

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.image_token_id = tokenizer.convert_tokens_to_ids(_IMAGE_TOKEN)
        self.end_of_turn_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        self._reserved = sorted({*_RESERVED, *special})
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_of_turn_id
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise ValueError(
                f"expected a Qwen-VL tokenizer with the token {_IMAGE_TOKEN}, got one without it; "
                "load the tokenizer of the backbone itself"
            )

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None, **kwargs: Any
    ) -> AMVLProcessor:
        """Load tokenizer and picture settings from a checkpoint folder or hub id.

        Args:
            path: folder written by `save_pretrained`, or any Qwen2.5-VL checkpoint.
            min_pixels: smallest picture area in pixels; smaller ones are enlarged. Default: the checkpoint's.
            max_pixels: largest picture area in pixels; larger ones are shrunk. Default: the checkpoint's.

        Raises:
            ValueError: if the checkpoint's ``size`` gives no such areas, or the smallest exceeds the largest.
        """
        from transformers import AutoTokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        if kwargs.pop("trust_remote_code", False):
            raise ValueError("trust_remote_code: expected False, got True; code from checkpoints is never run")
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **kwargs)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path, **kwargs)
        limits = _pixel_limits(dict(image_processor.size), min_pixels, max_pixels, str(path))
        image_processor.size = type(image_processor.size)(**limits)
        return cls(tokenizer, image_processor)

    def save_pretrained(self, path: str | Path, **_: Any) -> None:
        """Write tokenizer and picture settings beside a checkpoint."""
        self.tokenizer.save_pretrained(path)
        self.image_processor.save_pretrained(path)

    def __call__(self, questions: Sequence[VisualQuestion], *, answers: bool = True) -> dict[str, Tensor]:
        """Encode and pad a batch; with ``answers=False`` the answer tensors are left out."""
        return self.collate([self.encode(question, answers=answers) for question in questions])

    def encode(self, question: VisualQuestion, *, answers: bool = True) -> dict[str, Tensor]:
        """Tensors of one question, unpadded: shapes as in the class's legend without B.

        Raises:
            ValueError: if the question has no picture, an unreadable one, or another number of pictures than its
                prompt names.
        """
        pixels = self._encode_images(question)
        merge = self.image_processor.merge_size**2
        text = self._query_text(question)
        counts = [int(grid.prod()) // merge for grid in pixels.get("image_grid_thw", ())]
        parts = text.split(_IMAGE_TOKEN)
        text = parts[0] + "".join(_IMAGE_TOKEN * n + part for n, part in zip(counts, parts[1:], strict=True))
        ids = torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
        encoded = {"input_ids": ids, "mm_token_type_ids": (ids == self.image_token_id).int(), **pixels}
        if answers:
            encoded["answer_ids"] = self.encode_answer(question.answer_text, question.id)
        return encoded

    def query_length(self, question: VisualQuestion) -> int:
        """Number of query tokens N of one question, from its text and the sizes of its pictures alone."""
        merge = self.image_processor.merge_size**2
        text = self._query_text(question)
        tokens = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        with _usable_images(question):
            patches = sum(
                self.image_processor.get_number_of_image_patches(image.height, image.width) // merge
                for image in question.images
            )
        return tokens - len(question.images) + patches

    def encode_answer(self, text: str, question_id: str = "") -> Tensor:
        """Token ids (M,) of an answer and its end-of-turn token.

        Args:
            text: the answer.
            question_id: of its question, for messages.

        Raises:
            ValueError: if the text is empty (a hidden answer, for example) or contains a special token.
        """
        place = f"question {question_id!r}: " if question_id else ""
        self._refuse_special_tokens(text, f"{place}the answer", "remove it: the processor adds the end of the turn")
        if not text.strip():
            raise ValueError(
                f"{place}expected an answer to encode, got an empty text; questions with hidden answers can be answered "
                "(answers=False), not trained on"
            )
        return torch.tensor(
            [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_of_turn_id], dtype=torch.long
        )

    def collate(self, encoded: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad encoded questions to one batch."""
        if not encoded:
            raise ValueError("expected at least one question in a batch, got none")
        ids, mask = pad_right([e["input_ids"] for e in encoded], self.pad_token_id)
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": pad_right([e["mm_token_type_ids"] for e in encoded], 0)[0],
        }
        for name in ("pixel_values", "image_grid_thw"):
            if values := [e[name] for e in encoded if name in e]:  # chat messages may be text alone
                batch[name] = torch.cat(values)
        if "answer_ids" in encoded[0]:
            batch["answer_ids"], batch["answer_mask"] = pad_right([e["answer_ids"] for e in encoded], self.pad_token_id)
        return batch

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of generated ids (B, T), without special tokens."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def _refuse_special_tokens(self, text: str, place: str, fix: str) -> None:
        found = next((token for token in self._reserved if token in text), None)
        if found is not None:
            raise ValueError(f"{place} contains the special token {found}; {fix}")

    def _query_text(self, question: VisualQuestion) -> str:
        messages = list(question.messages) or self._user_turn(question)
        for text in (part["text"] for message in messages for part in message["content"] if part["type"] == "text"):
            self._refuse_special_tokens(
                text,
                f"question {question.id!r}: its text",
                f"remove it: the chat template writes it, and the place of an image is written {IMAGE_PLACEHOLDER}",
            )
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _user_turn(self, question: VisualQuestion) -> list[dict[str, Any]]:
        named = question.prompt.count(IMAGE_PLACEHOLDER)
        if named and named != len(question.images):
            raise ValueError(
                f"question {question.id!r}: its prompt names {named} image(s) ({IMAGE_PLACEHOLDER}), "
                f"but {len(question.images)} came with it; give one picture per placeholder, or no placeholder at all"
            )
        content: list[dict[str, str]] = []
        if named:
            for piece in re.split(f"({IMAGE_PLACEHOLDER})", question.prompt):
                if piece == IMAGE_PLACEHOLDER:
                    content.append({"type": "image"})
                elif piece:
                    content.append({"type": "text", "text": piece})
        else:
            content = [{"type": "image"} for _ in question.images] + [{"type": "text", "text": question.prompt}]
        return [{"role": "user", "content": content}]

    def _encode_images(self, question: VisualQuestion) -> dict[str, Tensor]:
        if not question.images and question.messages:
            return {}
        if not question.images:
            raise ValueError(
                f"question {question.id!r}: expected at least one image, got none; visual questions need a picture"
            )
        pictures = [
            to_rgb(image, f"question {question.id!r}: image {number}")
            for number, image in enumerate(question.images, start=1)
        ]
        with _usable_images(question):
            pixels = self.image_processor(images=pictures, return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"], "image_grid_thw": pixels["image_grid_thw"]}


def _pixel_limits(size: dict[str, Any], least: int | None, most: int | None, path: str) -> dict[str, int]:
    """The areas that the image processor takes as edges, of a ``size`` that names them edges or pixels."""
    limits = {
        "shortest_edge": size.get("shortest_edge", size.get("min_pixels")) if least is None else least,
        "longest_edge": size.get("longest_edge", size.get("max_pixels")) if most is None else most,
    }
    low, high = limits.values()
    if not isinstance(low, int) or not isinstance(high, int) or not 0 < low <= high:
        raise ValueError(
            f"{path}, preprocessor_config.json: expected areas [pixels] 0 < shortest_edge <= longest_edge in size, or "
            f"min_pixels and max_pixels, got {size} and, as arguments, min_pixels={least} and max_pixels={most}; correct "
            "the file or pass both"
        )
    return {"shortest_edge": low, "longest_edge": high}


@contextmanager
def _usable_images(question: VisualQuestion) -> Iterator[None]:
    """The image processor's error for images that it cannot take, such as 900 x 4 pixels, with the question's name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"question {question.id!r}: its images cannot be used ({error}); replace them or leave the question out"
        ) from error


def pad_right(rows: Sequence[Tensor], value: int) -> tuple[Tensor, Tensor]:
    """Stack 1-D tensors to (B, longest), padded with ``value``, and the mask (B, longest) of what is real."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)
    lengths = torch.tensor([len(row) for row in rows])
    return padded, (torch.arange(padded.shape[1]) < lengths[:, None]).long()
