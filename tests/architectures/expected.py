"""Architectures that are not right, each with its cause. A test fails when one of them changes, to the better too."""

from typing import NamedTuple


class Known(NamedTuple):
    """An architecture that is known to fail."""

    status: str
    """refused, differs or raises."""
    cause: str


NO_HOOK = "TransformerLens has no blocks.{layer}.hook_resid_post for it: "
IGNORES_MASK = "the recurrent layers ignore the attention mask, so that padded rows differ from the row alone in Hugging Face"

EXPECTED: dict[str, Known] = {
    "DeepseekV4ForCausalLM": Known(
        "refused",
        NO_HOOK + "several residual streams (hc_mult) run between blocks; the compressed attention counts padding tokens as "
        "others, so that padded rows differ in Hugging Face too",
    ),
    "FalconForCausalLM/40b": Known(
        "refused",
        "TransformerLens takes multi_query (which Falcon 40B and 180B set) for one key-value head, though "
        "new_decoder_architecture has num_kv_heads of them",
    ),
    "FalconForCausalLM/new": Known(
        "refused",
        "TransformerLens splits the fused query, key and value of new_decoder_architecture in one piece each; Hugging Face has "
        "them interleaved by key-value head",
    ),
    "GraniteMoeHybridForCausalLM/none": Known(
        "refused",
        'TransformerLens takes position_embedding_type None for "rope" and calls a rotary embedding that does not exist; '
        '"nope", as published models have it, is right',
    ),
    "HrmTextForCausalLM": Known(
        "refused", NO_HOOK + "its blocks are two stacks (H_blocks, L_blocks) that run several times a pass"
    ),
    "OPTForCausalLM/post-norm": Known(
        "refused",
        "TransformerLens expects a final norm wherever word_embed_proj_dim is the width; with do_layer_norm_before=False there "
        "is none (OPT 350m, whose two sizes differ, is right)",
    ),
    "OpenAIGPTLMHeadModel": Known(
        "refused",
        "its blocks return a list, of which TransformerLens hooks nothing: vectors have no effect; with an attention mask "
        "TransformerLens also drops the causal mask, so that tokens see later ones; there is no cache",
    ),
    "Phi3ForCausalLM/longrope": Known(
        "refused",
        "Hugging Face chooses the short or long rotary factors by the longest row of the batch, and keys that are cached keep "
        "the factors of their pass, so a batch with rows on both sides of the limit, or a response that crosses it, differs",
    ),
    "RecurrentGemmaForCausalLM": Known(
        "refused", "the state is kept in the modules, past_key_values is never returned; " + IGNORES_MASK
    ),
    "RwkvForCausalLM": Known("refused", IGNORES_MASK),
}
