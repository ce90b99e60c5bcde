"""From questions or chat messages to padded tensors, with transformers' PIL image processor and tokenizer and nothing else.

`Qwen2_5_VLProcessor` needs torchvision for its video half; this processor does images only and does not. Questions are
padded on the right: the latent block then stands at the same place of every row, and the query needs no N x N mask. Texts and
messages are padded as the tokenizer is set; the models take either side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import ProcessorMixin
from transformers.image_utils import make_flat_list_of_images

from amvl_model.data.hub import answering
from amvl_model.data.image_settings import FILE, check_settings, pixel_limits, stored_object
from amvl_model.data.images import load_image, to_rgb
from amvl_model.data.schema import VisualQuestion, short, text_of

IMAGE_PLACEHOLDER = "<image>"
_IMAGE_TOKEN = "<|image_pad|>"
_RESERVED = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", _IMAGE_TOKEN, "<|video_pad|>")


class AMVLProcessor(ProcessorMixin):
    """Turns `VisualQuestion` objects, or texts and chat messages with their images, into model inputs.

    A batch holds (B questions, N query tokens, M answer tokens, P patches, I images):

    - ``input_ids``, ``attention_mask``, ``mm_token_type_ids``: (B, N), right-padded; the query x in the backbone's chat
      template, ending where the assistant's turn begins. Token types: 0 text, 1 image.
    - ``pixel_values`` (P, patch values) and ``image_grid_thw`` (I, 3): as the backbone's vision tower takes them.
    - ``answer_ids``, ``answer_mask``: (B, M), right-padded; the answer y with its end-of-turn token.

    Images stand before the text, or where the prompt says ``<image>``; in messages and texts, where they are named.

    `apply_chat_template`, `batch_decode` and the rest are transformers' own. Tensors are padded and returned as torch's unless
    ``padding`` or ``return_tensors`` say otherwise.

    Args:
        tokenizer: of a Qwen-VL model.
        image_processor: transformers' for Qwen2-VL.
        chat_template: Jinja text; default: the tokenizer's.

    Raises:
        ValueError: for a tokenizer without an image token.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, image_processor, chat_template=chat_template or tokenizer.chat_template)
        self.image_token = _IMAGE_TOKEN
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
        """Load tokenizer and image settings from a checkpoint folder or hub id.

        Args:
            path: folder written by `save_pretrained`, or any Qwen2.5-VL checkpoint.
            min_pixels: smallest image area in pixels; smaller ones are enlarged. Default: the checkpoint's.
            max_pixels: largest image area in pixels; larger ones are shrunk. Default: the checkpoint's.

        Raises:
            ValueError: for image settings that cannot be used or do not fit the model in the same folder, areas among them.
        """
        for name in ("_from_auto", "_from_pipeline", "code_revision"):
            kwargs.pop(name, None)
        from transformers import AutoTokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        if kwargs.pop("trust_remote_code", False):
            raise ValueError("trust_remote_code: expected False, got True; code from checkpoints is never run")
        chat_template = kwargs.pop("chat_template", None)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **kwargs)
        folder = Path(path) / (kwargs.get("subfolder") or "")
        size = stored_object(folder / FILE).get("size")
        replaced = isinstance(size, int) and None not in (min_pixels, max_pixels)
        if size is not None and not (isinstance(size, dict) and size) and not replaced:
            raise ValueError(f"{folder / FILE}, size: expected an object of areas, got {short(size)}; correct the file")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(path, **kwargs)
        check_settings(image_processor, folder)
        limits = pixel_limits(dict(image_processor.size), min_pixels, max_pixels, folder)
        image_processor.size = type(image_processor.size)(**limits)
        return cls(tokenizer, image_processor, chat_template)

    def save_pretrained(self, path: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write tokenizer, chat template and image settings beside a checkpoint.

        No file names this class: `AutoProcessor` takes it by the model's configuration, and a plain Qwen2.5-VL checkpoint stays
        one that transformers loads alone.

        Args:
            path: the folder.
            push_to_hub: also upload it, to ``repo_id`` or a repository of the folder's name.
            **kwargs: for the upload.
        """
        self.tokenizer.save_pretrained(path)
        self.image_processor.save_pretrained(path)
        if isinstance(self.chat_template, str):
            (Path(path) / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(path).name), **kwargs)

    def push_to_hub(self, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """Upload tokenizer, chat template and image settings; arguments as in transformers.

        Raises:
            ConnectionError: if the Hub does not answer.
        """
        with answering(f"upload to {repo_id}"):
            return super().push_to_hub(repo_id, *args, **kwargs)

    def __call__(self, images: Any = None, text: Any = None, *, answers: bool = True, **kwargs: Any) -> Any:
        """Encode and pad a batch: ``processor(questions)``, or ``processor(text=..., images=...)`` as in transformers.

        Args:
            images: a sequence of questions, nothing else beside it; or the images that the text names, as `load_image` takes
                them (PIL, paths, addresses, base64, 8-bit arrays), in one list or one for each text.
            text: a prompt in the chat template, as `apply_chat_template` writes it, or a list of them.
            answers: of questions; with False the answer tensors are left out.
            **kwargs: for tokenizer and image processor, as in transformers (``padding``, ``return_tensors``, ...).

        Returns:
            the tensors in the class's legend; a dict for questions, transformers' `BatchFeature` for texts.

        Raises:
            ValueError: for no question, for another number of images than the texts name, and as `encode`.
            FileNotFoundError, ConnectionError: for an image that is not there.
        """
        if text is None and isinstance(images, list | tuple) and (not images or isinstance(images[0], VisualQuestion)):
            if kwargs:
                raise TypeError(f"questions are encoded with the argument answers alone, got {', '.join(kwargs)}")
            return self.collate([self.encode(question, answers=answers) for question in images])
        images = _loaded(images)
        return super().__call__(
            images=images if images is not None and _flat(images) else None,
            text=text,
            **{"return_tensors": "pt", "padding": True, "return_mm_token_type_ids": True, **kwargs},
        )

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """transformers' own, for a list of messages or a list of such lists.

        Raises:
            ValueError: for messages without a user turn, parts other than text and images, and tools or documents that the
                template ignores.
        """
        for name in ("tools", "documents"):
            if kwargs.get(name) and name not in str(kwargs.get("chat_template") or self.chat_template):
                raise ValueError(
                    f"expected no {name}, got some, and the chat template has no place for them; leave them out"
                )
        batch = conversation if conversation and isinstance(conversation[0], list | tuple) else [conversation]
        for number, messages in enumerate(batch, start=1):
            roles = [_field(message, "role") for message in _field(messages, "messages", messages)]
            if "user" not in roles:
                raise ValueError(
                    f"conversation {number}: expected a message of the role 'user', got the roles {roles}; add the question"
                )
            for message in _field(messages, "messages", messages):
                _check_parts(_field(message, "content"), f"conversation {number}")
        return super().apply_chat_template(conversation, *args, **kwargs)

    def validate_inputs(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **_: Any
    ) -> None:
        """What `__call__` takes of texts and images."""
        if videos is not None or audio is not None:
            raise ValueError("expected text and images, got video or audio; the model was trained on images alone")
        if text is None:
            raise ValueError(
                "expected text that names the images, got none; apply_chat_template writes it from messages"
            )
        if not len(text) or not all(isinstance(item, str) for item in text):
            raise ValueError("expected text as a string or a list of strings; pass messages to apply_chat_template")
        places = [item.count(_IMAGE_TOKEN) for item in text]
        named, given = sum(places), len(_flat(images))
        listed = images if isinstance(images, list | tuple) else ()
        lists = [len(item) for item in listed if isinstance(item, list | tuple)]
        if named == given and len(lists) == len(text) and lists != places:
            raise ValueError(
                f"expected for each text as many images as it names, {places}, got {lists}; give each text the list of its own"
            )
        if named != given:
            raise ValueError(
                f"expected as many images as the text names ({_IMAGE_TOKEN}), got {given} for {named}; "
                "give each image a place in the messages, {'type': 'image', 'image': ...}, or leave it out"
            )

    def _process_images(self, images: Any, **kwargs: Any) -> Any:
        return super()._process_images(_flat(images), **kwargs)

    def replace_image_token(self, image_inputs: Any, image_idx: int, **_: Any) -> str:
        """The tokens of one image."""
        return _IMAGE_TOKEN * self._image_tokens(image_inputs["image_grid_thw"][image_idx])

    def _image_tokens(self, grid: Any) -> int:
        return int(grid.prod()) // self.image_processor.merge_size**2

    def encode(self, question: VisualQuestion, *, answers: bool = True) -> dict[str, Tensor]:
        """Tensors of one question, unpadded: shapes as in the class's legend without B.

        Raises:
            ValueError: if the question has no image, an unreadable one, or another number of images than its
                prompt names.
        """
        pixels = self._encode_images(question)
        text = self._query_text(question)
        counts = [self._image_tokens(grid) for grid in pixels.get("image_grid_thw", ())]
        parts = text.split(_IMAGE_TOKEN)
        text = parts[0] + "".join(_IMAGE_TOKEN * n + part for n, part in zip(counts, parts[1:], strict=True))
        ids = torch.tensor(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)
        encoded = {"input_ids": ids, "mm_token_type_ids": (ids == self.image_token_id).int(), **pixels}
        if answers:
            encoded["answer_ids"] = self.encode_answer(question.answer_text, question.id)
        return encoded

    def query_length(self, question: VisualQuestion) -> int:
        """Number of query tokens N of one question, from its text and the sizes of its images alone."""
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
            ValueError: if the text is empty (a hidden answer, for example), contains a special token, or is no valid Unicode.
        """
        place = f"question {question_id!r}: " if question_id else ""
        text = self._checked(text, f"{place}the answer", "remove it: the processor adds the end of the turn")
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

    def decode(self, ids: Any, skip_special_tokens: bool = True, **kwargs: Any) -> Any:
        """Texts of generated ids (B, T), or the text of (T,); without special tokens unless requested."""
        single = isinstance(ids, int) or (len(ids) > 0 and not isinstance(ids[0], list | tuple) and not _is_row(ids[0]))
        decode = self.tokenizer.decode if single else self.tokenizer.batch_decode
        return decode(ids, skip_special_tokens=skip_special_tokens, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        return [*super().model_input_names, "mm_token_type_ids"]

    def _checked(self, text: Any, place: str, fix: str) -> str:
        if not (isinstance(text, str) and text.isascii()):
            text = text_of(text, place)
        result = next((token for token in self._reserved if token in text), None)
        if result is not None:
            raise ValueError(f"{place} contains the special token {result}; {fix}")
        return text

    def _query_text(self, question: VisualQuestion) -> str:
        messages = list(question.messages) or self._user_turn(question)
        for text in (part["text"] for message in messages for part in message["content"] if part["type"] == "text"):
            self._checked(
                text,
                f"question {question.id!r}: its text",
                f"remove it: the chat template writes it, and the place of an image is written {IMAGE_PLACEHOLDER}",
            )
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise ValueError(
                f"chat_template.jinja of the checkpoint cannot be used ({error}); copy it again"
            ) from error

    def _user_turn(self, question: VisualQuestion) -> list[dict[str, Any]]:
        named = question.prompt.count(IMAGE_PLACEHOLDER)
        if named and named != len(question.images):
            raise ValueError(
                f"question {question.id!r}: its prompt names {named} image(s) ({IMAGE_PLACEHOLDER}), "
                f"but {len(question.images)} came with it; give one image per placeholder, or no placeholder at all"
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
                f"question {question.id!r}: expected at least one image, got none; visual questions need an image"
            )
        resized = [
            to_rgb(image, f"question {question.id!r}: image {number}")
            for number, image in enumerate(question.images, start=1)
        ]
        with _usable_images(question):
            pixels = self.image_processor(images=resized, return_tensors="pt")
        return {"pixel_values": pixels["pixel_values"], "image_grid_thw": pixels["image_grid_thw"]}


def _field(message: Any, name: str, default: Any = None) -> Any:
    """Of a message, a dict or an object."""
    return message.get(name, default) if isinstance(message, Mapping) else getattr(message, name, default)


_KEYS = {"text": ("text",), "image": ("image", "url", "path", "base64"), "image_url": ("image_url",)}
"""Types of a message's parts, and where each has its content; an image may also come beside the messages."""


def _check_parts(content: Any, place: str) -> None:
    """Refuse parts of a message that the chat template would leave out or show as something else.

    Raises:
        ValueError: naming the part's type.
    """
    for part in content if isinstance(content, list | tuple) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("video", "audio"):
            raise ValueError(f"{place}: expected text and images, got {kind}; the model was trained on images alone")
        if kind not in _KEYS or (kind != "image" and not any(key in part for key in _KEYS[kind])):
            shown = (
                f"the type {kind!r} with {', '.join(map(str, part))}" if isinstance(part, Mapping) else repr(part)[:60]
            )
            raise ValueError(
                f'{place}: expected parts {{"type": "text", "text": ...}} and {{"type": "image", "image": ...}}, got {shown}'
            )


def _loaded(images: Any) -> Any:
    """Images in any form as the image processor takes them; lists stay lists."""
    if isinstance(images, list | tuple):
        if any(image is None for image in images):
            raise ValueError("expected images, got None among them; give a text without images an empty list")
        return [_loaded(image) for image in images]
    if images is None or getattr(images, "ndim", 0) == 4:
        return images if images is None else [load_image(image) for image in images]
    return load_image(images)


def _is_row(ids: Any) -> bool:
    return getattr(ids, "ndim", 0) > 0


def _flat(images: Any) -> list[Any]:
    """All images of a batch in one list."""
    if isinstance(images, list | tuple):
        return [image for item in images for image in _flat(item)]
    return [] if images is None else list(make_flat_list_of_images(images))


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
