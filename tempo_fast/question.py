"""What a question asks for, checked before anything is computed for it."""

from __future__ import annotations

from tempo_fast.checkpoint.config import TempoConfig
from tempo_fast.compression.allocation import check_budget
from tempo_fast.compression.strategies import Strategy, strategy_of
from tempo_fast.errors import OptionError
from tempo_fast.language_model.prompt import LanguagePrompt
from tempo_fast.options import AskOptions


def question_strategy(config: TempoConfig, options: AskOptions, *, is_image: bool) -> Strategy:
    """How memory tokens are kept: all of them for an image, and where the checkpoint says so."""
    if is_image or not config.dynamic_compress:
        return Strategy(name="none")
    return strategy_of(options)


def check_question(
    prompt: LanguagePrompt, query: str, options: AskOptions, strategy: Strategy, segments: int
) -> None:
    """Refuse what can't be answered.

    Raises OptionError for a query that is no text, a budget under the number of segments, or a
    context too small for the question.
    """
    if not isinstance(query, str):
        raise OptionError(f"the question must be a string; got {type(query).__name__}")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise OptionError(f"the question is not valid Unicode: {query!r}")
    if strategy.shares_budget:
        check_budget(options.visual_token_budget, segments)
    prompt.visual_room(query, options.tokenizer_model_max_length)
