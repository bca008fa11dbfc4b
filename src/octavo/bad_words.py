"""Which ids would complete a forbidden word: a function of the tokens that a request has made, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class BadWords:
    """The forbidden words of a request, each as its token ids, none of them empty."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        single: list[int] = []
        self._behind: dict[int, list[Sequence[int]]] = {}
        """Longer words by their last token but one, which must have just been made."""
        for word in words:
            if len(word) == 1:
                single.append(word[0])
            else:
                self._behind.setdefault(word[-2], []).append(word)
        self._single = tuple(single)

    @property
    def need_history(self) -> bool:
        """Whether what is forbidden depends on the tokens made."""
        return bool(self._behind)

    def completing(self, tokens: Sequence[int], start: int) -> Sequence[int]:
        """Ids that may not follow `tokens`; an answer begins at index `start`, and a word lies in it as a whole."""
        if not self._behind or len(tokens) <= start:
            return self._single
        forbidden = list(self._single)
        for word in self._behind.get(tokens[-1], ()):
            first = len(tokens) + 1 - len(word)
            if first >= start and all(tokens[first + i] == word[i] for i in range(len(word) - 1)):
                forbidden.append(word[-1])
        return forbidden
