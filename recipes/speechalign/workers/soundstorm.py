"""SoundStorm as a NAR worker: python soundstorm.py CHECKOUT CHECKPOINT.pt, in the environment of its own code.

CHECKOUT is soundstorm-speechtokenizer. Sizes are those of the public checkpoint (Conformer of width 1024, 12 layers, 8
heads of 128, 7 code books above the first); steps and greedy choice are AnyGPT's. The prompt's codes stand before the
answer's, so that its voice is taken up. Written after the published interface; not run against the models.
"""

import sys

from wavalign_worker import Contract, serve

BOOKS, BOOK_SIZE, STEPS = 8, 1024, 3


def load():
    """The contract, and the function that completes frames."""
    sys.path.insert(0, sys.argv[1])
    import torch
    from soundstorm_speechtokenizer import ConformerWrapper, SoundStorm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = ConformerWrapper(
        codebook_size=BOOK_SIZE,
        num_quantizers=BOOKS - 1,
        conformer={"dim": 1024, "depth": 12, "heads": 8, "dim_head": 128, "attn_flash": False},
    )
    model = SoundStorm(
        net=network, num_semantic_token_ids=BOOK_SIZE, semantic_pad_id=BOOK_SIZE, pad_id=BOOK_SIZE, schedule="cosine"
    )
    model.load(sys.argv[2])
    model.eval().to(device)

    def complete(given, prompt):
        torch.manual_seed(0)  # equal arguments must give equal codes
        first = torch.tensor(given, device=device)[None]
        voice = torch.tensor(prompt, dtype=torch.long, device=device).view(1, -1, BOOKS) if prompt else None
        with torch.no_grad():
            frames = model.generate(semantic_tokens=first, prompt_tokens=voice, steps=STEPS, greedy=True)
        return frames.flatten().tolist()  # [1, T, 8], its first column is `given`

    return Contract(codebook_sizes=(BOOK_SIZE,) * BOOKS, codes_given=1), None, None, complete


serve(load)
