"""Loss traces of tokens, sampled unit by unit into a store."""
