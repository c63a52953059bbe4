"""The first rank's own lock: a folder whose launcher is gone is not free while that rank writes."""

from pathlib import Path

import pytest

from wavalign.engine.state.folder import RunFolder
from wavalign.engine.state.rank_lock import locked_as_rank
from wavalign.errors import FolderBusyError


def test_a_folder_whose_launcher_is_gone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with locked_as_rank(tmp_path):
        with pytest.raises(FolderBusyError, match="whose launcher is gone"):
            folder.lock()
        assert folder.lock_descriptor is None
        with pytest.raises(FolderBusyError), locked_as_rank(tmp_path):
            pass
    folder.lock()
    folder.unlock()
