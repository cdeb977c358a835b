"""Time of one training step and of generation, against plain Hugging Face code doing the same; prints ratios.

    python benchmarks/speed.py [--repeats 5] [--threads 2]

The model has the Gemma 2 architecture with random weights (d_model 512, 13 layers, vocabulary 32,000; steered at layer 5).
A step is a batch of 12 rows of 120 tokens; generation is 12 prompts of 20 tokens with 40 new tokens each. The two sides
take turns and the ratio is that of their medians. There are three plain sides, all a frozen model with one PyTorch forward
hook: the oracle of the tests, which takes one row at a time and recomputes the whole sequence for each new token, and what a
careful user would write, with whole batches and a KV cache, once with eager attention, which is what TransformerLens uses,
and once with the attention Hugging Face picks by itself.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

import steerlens
from steerlens.model.batches import EncodedExample
from steerlens.training.loop import backward
from steerlens.training.settings import Settings
from steerlens.training.setup import prepare

VOCABULARY, WIDTH, LAYERS, LAYER = 32_000, 512, 13, 5
ROWS, PROMPT, RESPONSE, NEW = 12, 20, 100, 40


def config() -> Gemma2Config:
    return Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        query_pre_attn_scalar=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )


def bridge_model():
    """Words w3 ... w31999, one token each."""
    words = {name: number for number, name in enumerate(["<pad>", "<bos>", "<eos>", *(f"w{n}" for n in range(3, VOCABULARY))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")
    with tempfile.TemporaryDirectory() as folder:
        fast.save_pretrained(folder)
        loaded = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers("random-gemma-2", hf_model=_model("eager"), tokenizer=loaded)


def _model(attention: str | None) -> Gemma2ForCausalLM:
    torch.manual_seed(0)
    model = Gemma2ForCausalLM._from_config(config(), **({} if attention is None else {"attn_implementation": attention}))
    model.generation_config.eos_token_id = None
    return model.eval().requires_grad_(False)


def rows() -> list[EncodedExample]:
    drawn = torch.randint(3, VOCABULARY, (ROWS, PROMPT + RESPONSE), generator=torch.Generator().manual_seed(1))
    drawn[:, 0] = 1
    return [EncodedExample(tuple(row[:PROMPT]), tuple(row[PROMPT:])) for row in drawn.tolist()]


def plain_hook(vector: Callable[[], torch.Tensor]) -> Callable:
    """p2+s2 in prefill, nothing while decoding."""

    def edit(_module, _inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] == 1:  # decoding with a cache
            return None
        edited = hidden.clone()
        for place in (0, 1, PROMPT - 2, PROMPT - 1):
            edited[:, place] = hidden[:, place] + vector()
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    return edit


def plain_step(model: Gemma2ForCausalLM, examples: list[EncodedExample], per_pass: int = ROWS) -> Callable[[], object]:
    direction = torch.rand(WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()
    factor = torch.tensor(1.0, requires_grad=True)
    tokens = torch.tensor([example.prompt + example.response for example in examples])
    labels = tokens[:, PROMPT:]

    def step() -> object:
        handle = model.model.layers[LAYER].register_forward_hook(plain_hook(lambda: factor * direction))
        for part in range(0, ROWS, per_pass):
            logits = model(tokens[part : part + per_pass], use_cache=False, logits_to_keep=RESPONSE + 1).logits[:, :-1]
            some = F.cross_entropy(logits.flatten(0, 1), labels[part : part + per_pass].flatten())
            (some * per_pass / ROWS).backward()
        handle.remove()
        direction.grad = factor.grad = None
        return None

    return step


def steerlens_step(model, examples: list[EncodedExample]) -> Callable[[], object]:
    data = steerlens.SteeringData([steerlens.Example("w3", "w4")])
    settings = Settings(config=steerlens.TrainConfig(), seed=0)
    (run,) = prepare(model, {"x": data}, [LAYER], settings=settings).values()

    def step() -> object:
        backward(model, [run], [examples])
        run.sites[0].direction.grad = run.sites[0].factor.grad = None
        return None

    return step


def plain_generation(model: Gemma2ForCausalLM, examples: list[EncodedExample], vector: torch.Tensor) -> Callable[[], object]:
    tokens = torch.tensor([example.prompt for example in examples])

    def generate() -> object:
        handle = model.model.layers[LAYER].register_forward_hook(plain_hook(lambda: vector))
        out = model.generate(  # pyright: ignore[reportAttributeAccessIssue] - transformers adds it late
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False
        )
        handle.remove()
        return out[:, PROMPT:].tolist()

    return generate


def oracle_generation(model: Gemma2ForCausalLM, examples: list[EncodedExample], vector: torch.Tensor) -> Callable[[], object]:
    def generate() -> object:
        handle = model.model.layers[LAYER].register_forward_hook(plain_hook(lambda: vector))
        responses = []
        for example in examples:
            tokens = torch.tensor([example.prompt])
            for _ in range(NEW):
                tokens = torch.cat([tokens, model(tokens, use_cache=False, logits_to_keep=1).logits[:, -1:].argmax(-1)], dim=1)
            responses.append(tokens[0, PROMPT:].tolist())
        handle.remove()
        return responses

    return generate


def steerlens_generation(model, examples: list[EncodedExample], sv: steerlens.SteeringVector) -> Callable[[], object]:
    from steerlens.steering.generation import decode
    from steerlens.steering.hooks import edits_for_all

    prompts = [example.prompt for example in examples]
    return lambda: decode(model, prompts, edits_for_all([sv]), [None] * ROWS, NEW, 0.0)


def compare(name: str, sides: dict[str, Callable[[], object]], repeats: int) -> None:
    """Take turns, print medians and the ratio of steerlens to each other side."""
    times: dict[str, list[float]] = {side: [] for side in sides}
    order = list(sides.items())
    for turn in range(repeats + 1):
        for side, work in order[turn % len(order) :] + order[: turn % len(order)]:  # nobody is always first
            start = time.perf_counter()
            work()
            if turn:  # the first turn warms up
                times[side].append(time.perf_counter() - start)
    ours = statistics.median(times["steerlens"])
    for side, values in times.items():
        middle = statistics.median(values)
        ratio = "" if side == "steerlens" else f"   steerlens / {side} = {ours / middle:.2f}"
        print(f"{name:10} {side:22} {middle:7.3f} s (min {min(values):.3f}, max {max(values):.3f}){ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    examples = rows()
    bridge, eager, default = bridge_model(), _model("eager"), _model(None)
    bridge.original_model.requires_grad_(False)
    parts = {"steerlens": steerlens_step(bridge, examples)}
    parts |= {"oracle": plain_step(eager, examples, per_pass=1)}
    parts |= {"plain HF, eager": plain_step(eager, examples), "plain HF, its default": plain_step(default, examples)}
    compare("step", parts, arguments.repeats)
    sv = steerlens.SteeringVector(torch.randn(WIDTH, generator=torch.Generator().manual_seed(3)), 4.0, LAYER)
    texts = {"steerlens": steerlens_generation(bridge, examples, sv)}
    texts |= {"plain HF, eager": plain_generation(eager, examples, sv.vector)}
    texts |= {"plain HF, its default": plain_generation(default, examples, sv.vector)}
    compare("generate", texts, arguments.repeats)
    compare("generate", {"steerlens": texts["steerlens"], "oracle": oracle_generation(eager, examples, sv.vector)}, 1)
    if texts["steerlens"]() != texts["plain HF, eager"]():
        raise SystemExit("steerlens and plain HF generated different tokens: the times do not compare")
    print("steerlens and plain HF generated the same tokens")


if __name__ == "__main__":
    main()
