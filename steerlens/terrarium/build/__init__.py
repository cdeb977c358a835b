"""The scripts that make the embedded world: tokenizer, model, training, SAE."""
