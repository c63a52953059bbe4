"""The GLM-4-Voice speech tokenizer: a block-causal Whisper encoder that ends in a code book."""
