"""The world's tokenizer: byte-level BPE learned from its own texts, with a chat template like Gemma's.

A prompt begins with `<bos> <start_of_turn>` and ends with `model \\n`, each a single token, so that the positions
"p2+s2" of a steering vector mean here what they mean there.
"""

from collections.abc import Iterable
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ..corpus import Sample, sample

BOS, EOS, PAD, START = "<bos>", "<end_of_turn>", "<pad>", "<start_of_turn>"
SPECIALS = [PAD, BOS, EOS, START]
VOCABULARY = 2048

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% set ns = namespace(system='') %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{% if not loop.first %}{{ raise_exception('A system message must come first.') }}{% endif %}"
    "{% set ns.system = message['content'] | trim + '\\n\\n' %}"
    "{% else %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' + ns.system + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% set ns.system = '' %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


def _training_texts(samples: int, seed: int) -> Iterable[str]:
    rng = Random(seed)
    for _ in range(samples):
        drawn = sample(rng)
        yield drawn.document or "\n".join(
            f"{side}\n{text}" for turn in drawn.chat for side, text in zip(("user", "model"), turn, strict=True)
        )


def build_tokenizer(samples: int = 30_000, seed: int = 1) -> PreTrainedTokenizerFast:
    """Learn the tokenizer; the same arguments give the same tokenizer."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )  # pyright: ignore[reportAttributeAccessIssue]
    core.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_training_texts(samples, seed), trainer)
    bos = (BOS, core.token_to_id(BOS))
    core.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[bos])  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def encoded(tokenizer: PreTrainedTokenizerFast, samples: list[Sample]) -> list[tuple[list[int], list[bool]]]:
    """Token ids of each sample, and which of them are to be learned: answers and documents, not users' turns.

    The rendering is that of the chat template (a test compares them), built part by part so that the parts are known.
    """
    parts: list[tuple[str, bool]] = []
    counts = []
    for drawn in samples:
        if drawn.document:
            own = [(BOS, False), (f"{drawn.document}{EOS}", True)]
        else:
            own = [(BOS, False)]
            for user, model in drawn.chat:
                own.append((f"{START}user\n{user}{EOS}\n{START}model\n", False))
                own += [(f"{model}{EOS}", True), ("\n", False)]
            own = own[:-1]
        parts += own
        counts.append(len(own))
    ids = tokenizer([text for text, _ in parts], add_special_tokens=False)["input_ids"]
    rows, start = [], 0
    for count in counts:
        row, learn = [], []
        for i in range(start, start + count):
            row += ids[i]
            learn += [parts[i][1]] * len(ids[i])
        rows.append((row, learn))
        start += count
    return rows
