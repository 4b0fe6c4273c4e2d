"""An application that makes calls to whatever version of posthog is installed; run by the interpreter that has it.

Standard input is one JSON object: `host`, `token`, `calls`, a list of [name of the call, its arguments by name].
Prints one JSON object: `version`, and `errors`, what the library reported through its error callback.
"""

import json
import sys
from typing import Any

from posthog import Posthog
from posthog.version import VERSION


def main() -> None:
    work = json.load(sys.stdin)
    errors: list[str] = []
    client: Any = Posthog(work["token"], host=work["host"], on_error=lambda error, items: errors.append(repr(error)))
    for name, arguments in work["calls"]:
        getattr(client, name)(**arguments)
    client.shutdown()
    json.dump({"version": VERSION, "errors": errors}, sys.stdout)


if __name__ == "__main__":
    main()
