"""The tokenizer of the small trained Tempo, learnt from the sentences that it reads and writes."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tempo_fast.compression.prompt import BLANK_QUERY, SYSTEM, time_tag
from tempo_fast.demo.checkpoint import SPECIAL, wrap_tokenizer
from tempo_fast.demo.questions import WORDINGS, names
from tempo_fast.demo.shapes import COLOURS, SHAPES
from tempo_fast.language_model.prompt import AFTER, BEFORE

# Enough for every word of the sentences; the trainer stops before where there is no more to merge.
MOST_TOKENS = 2048


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has the films' words whole and every digit by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MOST_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    return wrap_tokenizer(tokenizer)


def _sentences() -> Iterator[str]:
    prompts = " ".join((BEFORE, AFTER))
    for name in SPECIAL:
        prompts = prompts.replace(name, " ")
    yield from (SYSTEM, f"\nQuery:\n{BLANK_QUERY}", prompts, time_tag(0.0), "Yes", "No")
    for colour in COLOURS:
        for shape in SHAPES:
            words = names(colour, shape) | names(colour, shape, "2")
            yield f"{colour} {shape}"
            yield shape
            for wordings in WORDINGS.values():
                for wording in wordings:
                    yield f"\nQuery:\n{wording.format(**words)}"
