"""Parts of the codec language models: sizes, templates, vocabulary, layout, network, decoding."""
