"""Token ids to text as they come: pieces that, joined, are the stripped answer."""

from __future__ import annotations

from tempo_fast.tokenizer import PromptTokenizer

# An incomplete UTF-8 sequence decodes to this; what follows may complete it.
INCOMPLETE = "\ufffd"


class TextStream:
    """Turns token ids into pieces of text that never have to be taken back.

    stop: strings that end the answer; they and what follows are not part of it. The pieces joined
    are `tokenizer.decode(ids)` up to a stop string, stripped.
    """

    def __init__(self, tokenizer: PromptTokenizer, stop: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._pending: list[int] = []
        self._settled = ""
        self._given = 0
        self.stopped = False

    def _decode(self) -> str:
        return self._tokenizer.decode(self._pending)

    def push(self, token: int) -> str:
        """Take one more id; return the text that is now certain."""
        self._pending.append(token)
        piece = self._decode()
        if piece and not piece.endswith(INCOMPLETE):
            self._settled += piece
            self._pending.clear()
        return self._give(final=False)

    def finish(self) -> str:
        """The rest of the text, when no more ids come."""
        self._settled += self._decode()
        self._pending.clear()
        return self._give(final=True)

    def _give(self, *, final: bool) -> str:
        if self.stopped:
            return ""
        ends = [at for at in map(self._settled.find, self._stop) if at >= 0]
        if ends:
            self._settled = self._settled[: min(ends)]
            self.stopped = final = True
        certain = len(self._settled) if final else len(self._settled) - self._held()
        text = self._settled[:certain].strip()
        piece, self._given = text[self._given :], max(self._given, len(text))
        return piece

    def _held(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1)
        tail = self._settled[-(longest - 1) :] if longest > 1 else ""
        starts = (tail[i:] for i in range(len(tail)))
        begun = (len(part) for part in starts if any(s.startswith(part) for s in self._stop))
        return next(begun, 0)
