"""Text, tokenizers, token classes and batches of token ids."""
