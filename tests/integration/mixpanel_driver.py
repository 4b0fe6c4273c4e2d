"""An application that uses Mixpanel's Python library; run by the interpreter that has it.

Standard input is one JSON object: `host`, `token`, `events`, a list of [distinct_id, name, properties], of which the last
ten go one by one and the others in batches; `people`, a list of [distinct_id, properties]; `groups`, a list of [key, id,
properties]; `imports`, a list of [distinct_id, name, Unix time, properties].
Prints one JSON object: `version`. The library raises at the first answer it does not like.
"""

import json
import sys
from importlib.metadata import version

from mixpanel import BufferedConsumer, Consumer, Mixpanel


def main() -> None:
    work = json.load(sys.stdin)
    # `api_host` would mean https.
    paths = {"events_url": "track", "people_url": "engage", "groups_url": "groups", "import_url": "import"}
    urls = {name: f"{work['host']}/{path}" for name, path in paths.items()}
    buffered = BufferedConsumer(**urls)
    for part, consumer in ((work["events"][:-10], buffered), (work["events"][-10:], Consumer(**urls))):
        client = Mixpanel(work["token"], consumer)
        for distinct_id, name, properties in part:
            client.track(distinct_id, name, properties)
    for distinct_id, properties in work["people"]:
        client.people_set(distinct_id, properties)
    for key, identity, properties in work["groups"]:
        client.group_set(key, identity, properties)
    for distinct_id, name, seconds, properties in work["imports"]:
        client.import_data("mp_key", distinct_id, name, seconds, properties)
    buffered.flush()
    json.dump({"version": version("mixpanel")}, sys.stdout)


if __name__ == "__main__":
    main()
