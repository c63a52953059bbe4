"""Parts of the VITA-Audio family: sizes, vocabulary, layout, network, decoding."""
