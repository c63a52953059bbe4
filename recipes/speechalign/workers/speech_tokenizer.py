"""SpeechTokenizer as a codec worker: python speech_tokenizer.py CONFIG.json CHECKPOINT.pt, in its own environment.

Written after the package's published interface (`load_from_checkpoint`, `encode` -> [K, B, T], `decode`); not run
against the models.
"""

import sys

from wavalign_worker import Contract, fingerprint_of, serve

BOOKS, BOOK_SIZE, RATE, FRAME_RATE = 8, 1024, 16_000, 50.0


def load():
    """The contract, and the functions of the loaded codec."""
    import torch
    from speechtokenizer import SpeechTokenizer

    config, checkpoint = sys.argv[1:3]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SpeechTokenizer.load_from_checkpoint(config, checkpoint).eval().to(device)

    def encode(samples):
        with torch.no_grad():
            codes = model.encode(torch.tensor(samples, device=device)[None, None])  # [K, 1, T]
        return codes[:, 0].T.flatten().tolist()

    def decode(codes):
        with torch.no_grad():
            books = torch.tensor(codes, device=device).view(-1, BOOKS).T[:, None]  # [K, 1, T]
            return model.decode(books).flatten().tolist()

    contract = Contract(
        codebook_sizes=(BOOK_SIZE,) * BOOKS,
        encode_rate=RATE,
        decode_rate=RATE,
        frame_rate=FRAME_RATE,
        fingerprint=fingerprint_of(config, checkpoint),
    )
    return contract, encode, decode


serve(load)
