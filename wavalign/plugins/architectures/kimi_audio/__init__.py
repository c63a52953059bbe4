"""Parts of the Kimi-Audio family: sizes, vocabulary, layout, network, decoding."""
