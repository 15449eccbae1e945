"""What the configuration of a T5 encoder (T5, UMT5) may say."""

from __future__ import annotations

from ..settings import STORED_WITH_COMPONENTS, Settings


def t5_settings(name: str) -> Settings:
    """Return the settings of the class of that name: all of T5's kind have the same."""
    return Settings(
        name,
        obeyed=frozenset(
            (
                "vocab_size",
                "d_model",
                "d_kv",
                "d_ff",
                "num_layers",
                "num_heads",
                "relative_attention_num_buckets",
                "relative_attention_max_distance",
                "layer_norm_epsilon",
                "feed_forward_proj",
                "dense_act_fn",
                "is_gated_act",
                "scalable_attention",
                "pad_token_id",
                "eos_token_id",
                "model_type",
            )
        ),
        # Of training, of a decoder, of other tasks, or of how transformers returns what it computed.
        idle=STORED_WITH_COMPONENTS
        | {
            "dropout_rate",
            "initializer_factor",
            "classifier_dropout",
            "num_decoder_layers",
            "scale_decoder_outputs",
            "decoder_start_token_id",
            "bos_token_id",
            "is_encoder_decoder",
            "is_decoder",
            "add_cross_attention",
            "use_cache",
            "output_past",
            "output_attentions",
            "output_hidden_states",
            "return_dict",
            "chunk_size_feed_forward",
            "problem_type",
            "id2label",
            "label2id",
            "task_specific_params",
            "tokenizer_class",
            "tie_word_embeddings",
            "tie_encoder_decoder",
            "n_positions",
            "torchscript",
            "use_bfloat16",
            "attn_implementation",
        },
    )
