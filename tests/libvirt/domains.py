"""Orders to libvirtd, for Debian's Python, which has libvirt's binding; one answer per line, as JSON.

    domains.py URI            orders on stdin, one per line, as JSON: ["define", XML] or [METHOD, DOMAIN]

An answer is ["ok", RESULT] or ["error", CODE, TEXT].
"""

import json
import sys
from typing import Any

import libvirt


def perform(connection: Any, order: str, subject: str) -> list[object]:
    try:
        if order == "define":
            return ["ok", connection.defineXML(subject).name()]
        result = getattr(connection.lookupByName(subject), order)()
    except libvirt.libvirtError as error:
        return ["error", error.get_error_code(), str(error)]
    return ["ok", result]


def main() -> None:
    # What libvirt says goes into the answers only.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    connection = libvirt.open(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(perform(connection, *json.loads(line))), flush=True)


main()
