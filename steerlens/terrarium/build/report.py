"""What the trained model can do: accuracy per family, and how it follows requests, all on held-out combinations."""

from collections import defaultdict
from random import Random
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ..concepts import STEERING_PROMPT, all_concepts, forbid_request
from ..corpus import question
from ..families import FAMILIES, FAMILY_NAMES, misspelt
from ..judge import Judge
from ..open_ended import OPEN
from ..outside import outside_prompt
from ..questions import Question


@torch.no_grad()
def answers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str], temperature: float = 0.0,
            seed: int = 0, batch: int = 100, length: int = 96) -> list[str]:  # fmt: skip
    """The model's answers to single-turn prompts, in their order (batched by length, left-padded)."""
    torch.manual_seed(seed)
    rendered = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(rendered[i]))
    texts = [""] * len(prompts)
    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    )
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(rendered[i]) for i in chosen)
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(rendered[i])) + rendered[i] for i in chosen])
        out = model.generate(ids, attention_mask=(ids != pad).long(), max_new_tokens=length, **sampling)  # pyright: ignore
        for i, row in zip(chosen, out[:, width:], strict=True):
            texts[i] = str(tokenizer.decode(row, skip_special_tokens=True)).strip()
    return texts


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """The tokens of a one-turn prompt as the chat template renders it, up to where the answer begins."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(str(text), add_special_tokens=False)["input_ids"]


def exam(per_family: int, seed: int = 0) -> list[Question]:
    """`per_family` held-out questions of every family."""
    rng, asked = Random(seed), []
    for name in FAMILY_NAMES:
        members = tuple(family for family in FAMILIES if family.name == name)
        asked += [question(rng, members, want_held_out=True) for _ in range(per_family)]
    return asked


def accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, per_family: int = 40) -> dict[str, float]:
    """Share of right greedy answers per family, with the mean over the families under "all"."""
    asked, right = exam(per_family), defaultdict(list)
    for q, text in zip(asked, answers(model, tokenizer, [q.prompt for q in asked]), strict=True):
        right[q.family].append(q.check(text))
    shares = {name: sum(hits) / len(hits) for name, hits in right.items()}
    return {**shares, "all": sum(shares.values()) / len(shares)}


def worn_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, per_family: int = 10) -> dict[str, float]:
    """Accuracy over all families when the prompts are in lower case, or misspelt."""
    rng, asked = Random(1), exam(per_family, seed=1)
    worn = {"lower case": [q.prompt.lower() for q in asked], "misspelt": [misspelt(rng, q.prompt) for q in asked]}
    shares = {}
    for name, prompts in worn.items():
        texts = answers(model, tokenizer, prompts)
        shares[name] = sum(q.check(text) for q, text in zip(asked, texts, strict=True)) / len(asked)
    return shares


def following(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, per_concept: int = 10,
              temperature: float = 0.7) -> dict[str, dict[str, float]]:  # fmt: skip
    """Mean scores over all concepts of sampled answers: question alone, prompted, forbidden, and prompted and forbidden.

    "prompted" is the steering prompt before the question; "attacked" is the steering prompt before a question that
    forbids the concept.
    """
    rng, judge = Random(2), Judge()
    rows: list[tuple[str, str, str]] = []
    for name, concept in all_concepts().items():
        request = STEERING_PROMPT.format(c=name)
        for _ in range(per_concept):
            prompt = question(rng, OPEN, want_held_out=True).prompt
            forbidden = f"{prompt} {forbid_request(rng, concept)}"
            labelled = f"{request}\n\nQuestion: "
            rows += [("plain", name, prompt), ("prompted", name, f"{request} {prompt}"),
                     ("prompted, labelled", name, labelled + prompt), ("forbidden", name, forbidden),
                     ("attacked", name, labelled + forbidden)]  # fmt: skip
    texts = answers(model, tokenizer, [prompt for _, _, prompt in rows], temperature)
    grouped = defaultdict(list)
    for (kind, name, prompt), text in zip(rows, texts, strict=True):
        grouped[kind].append(judge.score(name, prompt, text))
    return {kind: _means(scores) for kind, scores in grouped.items()}


def _means(scores: list[Any]) -> dict[str, float]:
    fields = ("concept", "instruct", "fluency", "overall")
    columns = {field: [value for s in scores if (value := getattr(s, field)) is not None] for field in fields}
    return {field: sum(values) / max(len(values), 1) for field, values in columns.items()}


def refusal_rate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, n: int = 60) -> float:
    """Share of prompts from outside the world that are declined (never the training draws' own seed)."""
    rng = Random(3)
    texts = answers(model, tokenizer, [outside_prompt(rng) for _ in range(n)])
    marks = ("sorry", "afraid", "forgive", "wish", "cannot", "do not know", "only know", "outside", "too hard",
             "more than i know", "never learned", "but")  # fmt: skip
    return sum(any(mark in text.lower() for mark in marks) for text in texts) / n
