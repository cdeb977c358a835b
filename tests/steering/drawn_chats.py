"""What the drawn cases are made of: architectures under tokenizers and templates, and the tokens that these must give."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from chat_models import CHATML, GEMMA, LLAMA2, PHI3, characters, pieces
from oracle import Oracle
from tiny import make_hf
from transformers import AutoTokenizer

import steerlens

SIZE = 200
"""Tokens of the models, some more than the tokenizers have, as in most real models."""


class Template(NamedTuple):
    """A chat template, and what is known of it."""

    source: str
    end: str | None
    """The token that ends the assistant's turn; None = EOS."""
    system: bool
    """Whether it has a place for a system message."""


TEMPLATES = {
    "no system branch": Template(PHI3, "<|end|>", False),  # drops it; the header ends in a line break
    "BOS of its own": Template(GEMMA, "<|im_end|>", False),  # refuses a system message
    "chatml": Template(CHATML, "<|im_end|>", True),
    "BOS in each turn": Template(LLAMA2, None, False),  # and no generation header
    "none": Template("", None, False),
}


class Chat(NamedTuple):
    """One drawn tokenizer with its settings. Hashable, so that the same one is made once."""

    architecture: str
    template: str
    sentencepiece: bool
    bos_first: bool
    padding_side: str
    pad: str | None
    eos: str


class Booted(NamedTuple):
    """A model, the oracle of its weights, and the tokenizer as it lies on disk."""

    chat: Chat
    model: Any
    oracle: Oracle
    tokenizer: Any

    @property
    def templated(self) -> bool:
        return self.chat.template != "none"

    def ids(self, prompt: str | Sequence[Mapping[str, str]], chat: bool) -> list[int]:
        """What the tokenizer on disk makes of a prompt; a system message without a place stands before the first question."""
        if not (chat and self.templated):
            return list(self.tokenizer(prompt)["input_ids"])
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        if messages[0]["role"] == "system" and not TEMPLATES[self.chat.template].system:
            first, asked = (message["content"] for message in messages[:2])
            messages = [{"role": "user", "content": f"{first.rstrip()}\n\n{asked}"}, *messages[2:]]
        made = self.tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
        return list(made["input_ids"])

    def stops(self, chat: bool) -> set[int]:
        """What ends a response: EOS of the configuration (2), of the tokenizer, and the template's end of a turn."""
        end = TEMPLATES[self.chat.template].end if chat else None
        ids = self.tokenizer.convert_tokens_to_ids([token for token in (self.chat.eos, end) if token is not None])
        return {2, *ids}


def boots(folder: Callable[[], Path]) -> Callable[[Chat], Booted]:
    """Chat -> its model, the last ones kept; `folder` gives an empty one."""
    plain = lru_cache(None)(lambda architecture: make_hf(architecture, SIZE))

    @lru_cache(64)
    def boot(chat: Chat) -> Booted:
        make, place = (pieces if chat.sentencepiece else characters), folder()
        config = {"padding_side": chat.padding_side, "pad_token": chat.pad, "add_bos_token": chat.bos_first}
        template = TEMPLATES[chat.template].source or None
        tokenizer = make(place, template, eos=chat.eos, bos_first=chat.bos_first, **config)
        hf = plain(chat.architecture)
        model = steerlens.load_model("someone/tiny", hf_model=copy.deepcopy(hf), tokenizer=tokenizer, device="cpu")
        return Booted(chat, model, Oracle(hf), AutoTokenizer.from_pretrained(place))

    return boot
