"""Speech parts that several plugins share: a synthesizer, a recognizer, measures of prosody and quality."""
