"""Neural codecs of the transformers library, one class a family behind one contract."""
