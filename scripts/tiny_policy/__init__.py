"""Parts of `scripts/train_tiny_policy.py`: dialogues, tokenizer, model, training loop, export."""
