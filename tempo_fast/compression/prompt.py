"""The compressor's prompt of a segment, tokenized in the parts that are reused.

`[system | time tags and visual tokens | query]`: the system part is the same for every segment of
every video, the visual part for every query. The published code tokenizes the whole prompt at once;
cut only at special tokens, as here, the parts give the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, takewhile
from typing import Literal

from jinja2 import TemplateError

from tempo_fast.errors import CheckpointError
from tempo_fast.tokenizer import PromptTokenizer

SYSTEM = (
    "You are a query-conditioned visual compressor. Store in the provided memory tokens the "
    "minimal visual information needed to answer the Query. Ignore irrelevant details. Now, before "
    "compressing, answer exactly 'Yes' or 'No': is this segment relevant to the Query?"
)
BLANK_QUERY = "Describe this content."
# A private-use character that no template contains: where the query goes.
QUERY_MARK = "\ue000"
START, END = "<|vision_start|>", "<|vision_end|>"

Kind = Literal["video", "image"]


class SegmentPrompt:
    """The ids of a segment's prompt.

    tokenizer: the base's, with its chat template. kind: a segment of a video, whose temporal
    patches carry time tags, or one image. system: ids before the first that depends on the segment.
    """

    def __init__(self, tokenizer: PromptTokenizer, kind: Kind) -> None:
        self._encode, self._encode_text = tokenizer.encode, tokenizer.encode_text
        content = [{"type": kind}, {"type": "text", "text": f"\nQuery:\n{QUERY_MARK}"}]
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
        pad = f"<|{kind}_pad|>"
        try:
            text = tokenizer.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            self._head, rest = text.split(f"{START}{pad}{END}")
            self._lead, tail = rest.split(QUERY_MARK)
        except (ValueError, TypeError, TemplateError) as error:
            raise CheckpointError(
                f"the base's chat template doesn't write one {START}{pad}{END} and then the text "
                f"of the user's message ({error}): is it Qwen3-VL's?"
            ) from error
        self._kind = kind
        self._start, self._pad, self._end = tokenizer.tokenizer.convert_tokens_to_ids(
            [START, pad, END]
        )
        self._tail, *heads = self._encode([tail, self._head, self._head + time_tag(0.0)])
        # The last piece of the head may be tokenized together with a time tag.
        pairs = zip(*heads, strict=False)
        self.system = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

    def visual(self, times: Sequence[Sequence[float]], tokens: int) -> list[list[int]]:
        """Ids from the end of the system part to the query, for each segment.

        times: seconds of each segment's temporal patches (an image has one, which is not written).
        tokens: visual tokens of a temporal patch; their places hold the pad token.
        """
        tags = [
            [time_tag(t) if self._kind == "video" else "" for t in moments] for moments in times
        ]
        texts = (self._head * (i == 0) + tag for each in tags for i, tag in enumerate(each))
        encoded = iter(self._encode(list(texts)))
        patch = [self._start, *[self._pad] * tokens, self._end]
        segments = []
        for moments in times:
            parts = [next(encoded) + patch for _ in moments]
            segments.append(list(chain.from_iterable(parts))[len(self.system) :])
        return segments

    def query(self, query: str) -> list[int]:
        """Ids from the end of the visual part to the first memory token.

        A blank query becomes `Describe this content.`. Text that looks like a special token is
        text.
        """
        text = self._lead + (query if query.strip() else BLANK_QUERY)
        return self._encode_text(text) + self._tail

    @property
    def pad_token(self) -> int:
        """The id that holds the place of a visual token."""
        return self._pad


def time_tag(seconds: float) -> str:
    """A moment as both models are told it."""
    return f"<{seconds:.1f} seconds>"
