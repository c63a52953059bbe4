"""What a record holds beside its words is repeated with every answer only up to a size, and what is cut says so."""

import json

from wavalign.engine.run.rollout_log import CUT, LONGEST_VALUE, MOST_METADATA, bounded


def test_small_metadata_stays_as_it_is() -> None:
    metadata = {"answer": "two", "words": ["a", "b"], "score": 1.5, "none": None, "nested": {"a": 1}}
    assert bounded(metadata) == metadata


def test_three_megabytes_become_a_few_kilobytes() -> None:
    metadata = {"answer": "two", "log": "x" * 3_000_000, "rows": [[1, 2, 3]] * 100_000}
    metadata |= {f"field {number}": "y" * 500 for number in range(1000)}
    found = bounded(metadata)
    assert found["answer"] == "two"
    assert "(3,000,002 characters)" in found["log"]
    assert found["log"].startswith('"xxx')
    assert len(json.dumps(found)) < MOST_METADATA + 4 * LONGEST_VALUE
    kept = len(found) - 1
    assert found[CUT] == f"{len(metadata) - kept} of {len(metadata)} fields are left out here; the data has them"
