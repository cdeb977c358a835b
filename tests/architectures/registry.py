"""Every architecture that TransformerLens supports: how to build a tiny one, or why it cannot be steered or built.

One generic builder asks the family's configuration class which of the common sizes it knows; `OWN` holds what a family needs
beside them. A name may carry a variant after a slash ("Phi3ForCausalLM/longrope").
"""

import warnings
from typing import Any, NamedTuple

import torch
import transformers
from tiny import CHARACTERS, CONTEXT, LAYERS, SPECIAL, WIDTH
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

VOCABULARY = len(SPECIAL) + len(CHARACTERS)
STOPS = [2, 5]
"""<eos> and <end_of_turn>."""


class Family(NamedTuple):
    """An architecture as the tables below know it."""

    name: str
    adapter: str
    reason: str | None
    """Why no model is built; None = it is."""

    @property
    def architecture(self) -> str:
        """The Hugging Face class's name."""
        return self.name.partition("/")[0]


COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": WIDTH // 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,
    "init_std": 0.25,
    "tie_word_embeddings": False,  # tied, random weights repeat the last token for ever
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "sliding_window": 16,  # shorter than the prompts
    "query_pre_attn_scalar": 12,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 24,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "use_mamba_kernels": False,
    "mamba_n_heads": 8,
    "mamba_d_head": 12,
    "mamba_d_state": 16,
    "mamba_chunk_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 12,
    "index_n_heads": 16,  # of few heads all scores may be 0, and which are chosen is not told
    "index_head_dim": 16,
    "index_topk": 64,
}
"""Given to every configuration class that knows the field, by this name or by the name that it maps it to."""

FULL_SLIDING = ["sliding_attention", "full_attention"] * 2
LINEAR_FULL = ["linear_attention", "full_attention"] * 2
THREE_HEADS = {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16}  # a quarter of 16 is an even number
GRANITE_HYBRID = {"layer_types": LINEAR_FULL, "shared_intermediate_size": 32, "mamba_n_groups": 1}
NO_LIMIT = {"time_step_min": 1e-9}  # Hugging Face applies this limit in whole passes, but not in cached steps

OWN: dict[str, dict[str, Any]] = {
    "AfmoeForCausalLM": {"layer_types": FULL_SLIDING, "global_attn_every_n_layers": 2},
    "BambaForCausalLM": {"attn_layer_indices": [1, 3]},
    "JetMoeForCausalLM": {"num_key_value_heads": 2},
    "LagunaForCausalLM": {
        "layer_types": FULL_SLIDING,
        "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
        "num_attention_heads_per_layer": [4] * 4,
    },
    "Ministral3ForCausalLM": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "VaultGemmaForCausalLM": {"layer_types": FULL_SLIDING},
    "Gemma3ForCausalLM": {"layer_types": FULL_SLIDING},
    "Gemma4ForCausalLM": {
        "layer_types": FULL_SLIDING,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size_per_layer_input": 12,
        "global_head_dim": 12,
    },
    "ModernBertDecoderForCausalLM": {"layer_types": FULL_SLIDING, "local_attention": 16},
    "NanoChatForCausalLM": {},
    "RwkvForCausalLM": {"attention_hidden_size": WIDTH},
    "CodeGenForCausalLM": {"n_ctx": CONTEXT, "rotary_dim": 8},
    "GPTJForCausalLM": {"rotary_dim": 8},
    "Cohere2ForCausalLM": {"layer_types": FULL_SLIDING, "logit_scale": 1.0},
    "CohereForCausalLM": {"logit_scale": 1.0},
    "DeepseekV2ForCausalLM": {"num_key_value_heads": 4, "head_dim": 8},
    "DeepseekV3ForCausalLM": {"num_key_value_heads": 4},
    "GlmMoeDsaForCausalLM": {"num_key_value_heads": 4, "head_dim": 8, "mlp_layer_types": ["dense", *["sparse"] * 3]},
    "Glm4MoeLiteForCausalLM": {"num_key_value_heads": 4, "mlp_layer_types": ["dense", *["sparse"] * 3]},
    "YoutuForCausalLM": {"num_key_value_heads": 4, "embedding_initializer_range": 0.25},
    "DeepseekV4ForCausalLM": {
        "head_dim": 16,
        "num_key_value_heads": 1,
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "sliding_attention",
        ],
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "hc_mult": 2,
        "o_groups": 2,
        "o_lora_rank": 8,
        "partial_rotary_factor": 0.5,
        "num_nextn_predict_layers": 0,
    },
    "Ernie4_5_MoeForCausalLM": {"moe_layer_end_index": 3, "moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "Exaone4ForCausalLM": {"layer_types": FULL_SLIDING, "sliding_window_pattern": 2},
    "FalconForCausalLM": {"num_kv_heads": 4, "ffn_hidden_size": 96},
    "FalconForCausalLM/alibi": {"num_kv_heads": 4, "ffn_hidden_size": 96, "alibi": True, "parallel_attn": False},
    "FalconForCausalLM/40b": {"num_kv_heads": 2, "ffn_hidden_size": 96, "new_decoder_architecture": True},
    "FalconForCausalLM/new": {
        "num_kv_heads": 2,
        "ffn_hidden_size": 96,
        "new_decoder_architecture": True,
        "multi_query": False,
    },
    "FalconH1ForCausalLM": {"mamba_d_ssm": 96},
    "FalconMambaForCausalLM": {"initializer_range": 0.25, "time_step_rank": 4},
    "MambaForCausalLM": {"time_step_rank": 4},
    "Mamba2ForCausalLM": {"num_heads": 8, "head_dim": 12, "n_groups": 1, "state_size": 16, "chunk_size": 8},
    "GPTNeoForCausalLM": {
        "attention_types": [[["global", "local"], 2]],
        "window_size": 16,
    },
    "GPTNeoXForCausalLM": THREE_HEADS,
    "GPTNeoXForCausalLM/sequential": {**THREE_HEADS, "use_parallel_residual": False},
    "GPTBigCodeForCausalLM": {"n_inner": 96},
    "GPT2LMHeadModel": {"n_inner": 96},
    "GptOssForCausalLM": {
        "layer_types": FULL_SLIDING,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
        },
    },
    "GraniteMoeHybridForCausalLM": {**GRANITE_HYBRID, "position_embedding_type": "rope"},
    "GraniteMoeHybridForCausalLM/none": {**GRANITE_HYBRID, "position_embedding_type": None},
    "GraniteMoeHybridForCausalLM/nope": {**GRANITE_HYBRID, "position_embedding_type": "nope"},
    "HrmTextForCausalLM": {"num_hidden_layers": 2, "H_cycles": 1, "L_cycles": 1, "embedding_scale": 1.0, "L_bp_cycles": [1]},
    "JambaForCausalLM": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "Llama4ForCausalLM": {
        "intermediate_size_mlp": 96,
        "layer_types": ["chunked_attention", "full_attention"] * 2,
        "no_rope_layers": [1, 0, 1, 0],
        "moe_layers": [1, 3],
        "num_experts_per_tok": 1,
        "attention_chunk_size": 64,
    },
    "LlamaForCausalLM/llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
    },
    "LlamaForCausalLM/dynamic": {
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        "max_position_embeddings": 100,  # it switches on where the context ends, so never
    },
    "Lfm2ForCausalLM": {"layer_types": ["conv", "full_attention"] * 2, "full_attn_idxs": None, "block_multiple_of": 8},
    "Lfm2MoeForCausalLM": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "NemotronForCausalLM": THREE_HEADS,
    "NemotronHForCausalLM": {
        **NO_LIMIT,
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 12,
        "n_groups": 1,
        "ssm_state_size": 16,
        "chunk_size": 8,
        "moe_shared_expert_intermediate_size": 32,
    },
    "MptForCausalLM": {"n_heads": 4, "max_seq_len": CONTEXT},
    "OlmoHybridForCausalLM": {"layer_types": LINEAR_FULL},
    "Olmo3ForCausalLM": {"layer_types": FULL_SLIDING},
    "OPTForCausalLM": {"ffn_dim": 96, "word_embed_proj_dim": WIDTH},
    "OPTForCausalLM/350m": {"ffn_dim": 96, "word_embed_proj_dim": 24, "do_layer_norm_before": False},
    "OPTForCausalLM/post-norm": {"ffn_dim": 96, "word_embed_proj_dim": WIDTH, "do_layer_norm_before": False},
    "XGLMForCausalLM": {"ffn_dim": 96, "attention_heads": 4},
    "PhiForCausalLM": THREE_HEADS,
    "Phi3ForCausalLM/longrope": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 6,
            "long_factor": [4.0] * 6,
            "original_max_position_embeddings": 30,  # one prompt is shorter, one grows over it, one is longer
            "partial_rotary_factor": 1.0,
        },
        "original_max_position_embeddings": 30,
    },
    "Qwen2ForCausalLM/sliding": {"use_sliding_window": True, "max_window_layers": 2, "layer_types": FULL_SLIDING[::-1]},
    "Qwen2MoeForCausalLM": {"decoder_sparse_step": 2},
    "Qwen3NextForCausalLM": {**THREE_HEADS, "layer_types": LINEAR_FULL},
    "Qwen3_5ForCausalLM": {**THREE_HEADS, "layer_types": LINEAR_FULL},
    "Qwen3_5MoeForCausalLM": {**THREE_HEADS, "layer_types": LINEAR_FULL},
    "RecurrentGemmaForCausalLM": {"lru_width": WIDTH, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
    "SmolLM3ForCausalLM": {"no_rope_layers": [1, 0, 1, 0], "no_rope_layer_interval": 2},
    "StableLmForCausalLM": THREE_HEADS,
    "Zamba2ForCausalLM": {
        **NO_LIMIT,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "n_mamba_heads": 8,
        "mamba_headdim": 12,
        "mamba_d_state": 16,
        "chunk_size": 8,
        "num_mem_blocks": 1,
        "adapter_rank": 8,
        "attention_head_dim": 24,
        "num_key_value_heads": 4,
        "attention_hidden_size": 96,
    },
}
"""What a family needs beside or instead of the common sizes; also the variants worth a row of their own."""

SEEDS = {"Qwen3NextForCausalLM": 1}
"""Other weights, where those of the usual seed let float32 rounding grow to 1e-4 in padded rows, in plain Hugging Face too."""

BLOCKS = {
    "model.layers": (),
    "transformer.h": (
        "BloomForCausalLM",
        "CodeGenForCausalLM",
        "FalconForCausalLM",
        "GPT2LMHeadModel",
        "GPTBigCodeForCausalLM",
        "GPTJForCausalLM",
        "GPTNeoForCausalLM",
        "OpenAIGPTLMHeadModel",
    ),
    "gpt_neox.layers": ("GPTNeoXForCausalLM",),
    "backbone.layers": ("FalconMambaForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM"),
    "rwkv.blocks": ("RwkvForCausalLM",),
    "transformer.blocks": ("MptForCausalLM",),
    "model.decoder.layers": ("OPTForCausalLM",),
    "model.H_module.layers": ("HrmTextForCausalLM",),
}
"""Where a Hugging Face model keeps its blocks; "model.layers" unless listed."""

ENCODER_DECODER = "encoder-decoder"
REMOTE = "remote code"
ALIAS = "another name of {}; no Hugging Face class is called so"
NOT_BUILT = {
    **dict.fromkeys(
        (
            "BartForConditionalGeneration",
            "BlenderbotForConditionalGeneration",
            "Florence2ForConditionalGeneration",
            "LEDForConditionalGeneration",
            "LongT5ForConditionalGeneration",
            "M2M100ForConditionalGeneration",
            "MarianMTModel",
            "MBartForConditionalGeneration",
            "MT5ForConditionalGeneration",
            "PegasusForConditionalGeneration",
            "SwitchTransformersForConditionalGeneration",
            "T5ForConditionalGeneration",
            "T5GemmaForConditionalGeneration",
            "T5Gemma2ForConditionalGeneration",
            "T5WithLMHeadModel",
        ),
        ENCODER_DECODER,
    ),
    **dict.fromkeys(("BertForMaskedLM", "BertLMHeadModel", "RobertaForMaskedLM"), "masked"),
    **dict.fromkeys(
        ("BD3LM", "DreamModel", "GiddForDiffusionLM", "LLaDA2MoeModelLM", "LLaDAModelLM"), "diffusion, remote code"
    ),
    **dict.fromkeys(
        (
            "ASTForAudioClassification",
            "HubertForCTC",
            "HubertModel",
            "Wav2Vec2ForCTC",
            "Wav2Vec2ForPreTraining",
            "Wav2Vec2Model",
        ),
        "audio, no text is generated",
    ),
    **dict.fromkeys(
        (
            "AudioFlamingo3ForConditionalGeneration",
            "GlmAsrForConditionalGeneration",
            "MusicFlamingoForConditionalGeneration",
            "Qwen2AudioForConditionalGeneration",
        ),
        "audio and text",
    ),
    **dict.fromkeys(
        (
            "Emu3ForConditionalGeneration",
            "Gemma3ForConditionalGeneration",
            "Gemma3nForConditionalGeneration",
            "Gemma4ForConditionalGeneration",
            "Gemma4UnifiedForConditionalGeneration",
            "Glm4vForConditionalGeneration",
            "Idefics3ForConditionalGeneration",
            "Llama4ForConditionalGeneration",
            "LlavaForConditionalGeneration",
            "LlavaNextForConditionalGeneration",
            "LlavaOnevisionForConditionalGeneration",
            "Mistral3ForConditionalGeneration",
            "MuseGlimmerForConditionalGeneration",
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
            "Qwen3_5ForConditionalGeneration",
            "Qwen3_5MoeForConditionalGeneration",
        ),
        "images and text",
    ),
    **dict.fromkeys(("DeiTForImageClassification", "DeiTModel", "ViTForImageClassification", "ViTModel"), "images"),
    **dict.fromkeys(
        (
            "BaiChuanForCausalLM",
            "BaichuanForCausalLM",
            "ExaoneForCausalLM",
            "GPT2LMHeadCustomModel",
            "HyenaDNAForCausalLM",
            "InternLM2ForCausalLM",
            "JetMoEForCausalLM",
            "MPTForCausalLM",
            "OpenELMForCausalLM",
            "OuroForCausalLM",
            "PhiMoEForCausalLM",
            "QwenForCausalLM",
            "RWKV7ForCausalLM",
            "RavenForCausalLM",
        ),
        REMOTE,
    ),
    "BloomModel": ALIAS.format("BloomForCausalLM"),
    "Gemma1ForCausalLM": ALIAS.format("GemmaForCausalLM"),
    "NeoForCausalLM": ALIAS.format("GPTNeoForCausalLM"),
    "NeoXForCausalLM": ALIAS.format("GPTNeoXForCausalLM"),
    **dict.fromkeys(
        (
            "MinGPTForCausalLM",
            "NanoGPTForCausalLM",
            "NeelSoluOldForCausalLM",
            "TransformerLensNative",
            "TransformerLensPretrain",
        ),
        "no Hugging Face model",
    ),
}
"""Why no model is built."""


def families() -> list[Family]:
    """All that TransformerLens supports, and our variants, by name."""
    names = sorted({*SUPPORTED_ARCHITECTURES, *OWN})
    return [Family(name, SUPPORTED_ARCHITECTURES[name.partition("/")[0]].__name__, NOT_BUILT.get(name)) for name in names]


def built() -> list[Family]:
    """Those that a tiny model is built of."""
    return [family for family in families() if family.reason is None]


def configuration(family: Family) -> Any:
    """The tiny configuration: common sizes that the class knows, and the family's own."""
    kind = getattr(transformers, family.architecture).config_class
    fields, other_names = kind.__dataclass_fields__, kind.attribute_map
    given = {}
    for name, value in COMMON.items():
        known = next((key for key in (name, other_names.get(name)) if key in fields), None)
        if known is not None:
            given.setdefault(known, value)
    config = kind(**given | OWN.get(family.name, {}))
    config._attn_implementation = "eager"
    return config


def make_hf(family: Family) -> Any:
    """A Hugging Face model with random weights, large enough for varied greedy text, in evaluation mode."""
    torch.manual_seed(sum(map(ord, family.name)) + SEEDS.get(family.name, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, family.architecture)(configuration(family))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases of 0 and norms of 1 would hide what is done with them
                parameter.add_(torch.randn(parameter.shape) / 10)
    model.generation_config.eos_token_id = STOPS
    return model.eval()


def blocks_of(hf: Any) -> Any:
    """The list of a Hugging Face model's blocks, whose outputs are tensors or tuples."""
    path = next((path for path, names in BLOCKS.items() if type(hf).__name__ in names), "model.layers")
    blocks = hf.get_submodule(path)
    for block in blocks:
        block.register_forward_hook(lambda _module, _args, output: tuple(output) if isinstance(output, list) else None)
    return blocks
