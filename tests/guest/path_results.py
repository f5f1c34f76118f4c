"""What a run of the path cases has measured, of either daemon, in one file of JSON: `$HOLDFAST_GUEST_RESULTS`.

put("hang", "readsector0", kind, {"p99_ms": 8.2})     # {"hang": {"readsector0": {"multipathd": ...}}}
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "HOLDFAST_GUEST_RESULTS"

_found: Final[dict[str, Any]] = {}
_lock: Final = threading.Lock()


def put(*keys_and_value: Any) -> None:
    """The last argument under the keys before it; the file is written anew, if one is wanted."""
    *keys, last, value = keys_and_value
    with _lock:
        place = _found
        for key in keys:
            place = place.setdefault(key, {})
        place[last] = value
        path = os.environ.get(VARIABLE)
        if path:
            temporary = Path(f"{path}.new")
            temporary.write_text(json.dumps(_found, indent=1, sort_keys=True) + "\n")
            temporary.rename(path)
