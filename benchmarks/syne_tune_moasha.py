"""MO-ASHA of Syne Tune as a server on its standard streams, for search_quality.py, in an environment of its own.

    python benchmarks/syne_tune_moasha.py

Reads a JSON object a line. `{"start": {…}}` makes a scheduler with these settings; `{"trial": 3, "level": 1,
"values": [0.2, 5.0]}` reports what a trial shows at a level (all minimised) and is answered by true if it goes on.
"""

import argparse
import json
import sys
from types import SimpleNamespace


def main() -> None:
    """Answer until the input ends."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA

    scheduler, known = None, set()
    for line in sys.stdin:
        said = json.loads(line)
        if "start" in said:
            scheduler, known = MOASHA(config_space={}, time_attr="level", **said["start"]), set()
            continue
        trial = SimpleNamespace(trial_id=said["trial"])
        if said["trial"] not in known:
            known.add(said["trial"])
            scheduler.on_trial_add(trial)
        metrics = dict(zip(scheduler.metric_names(), said["values"], strict=True))
        action = scheduler.on_trial_result(trial, {"level": said["level"], **metrics})
        sys.stdout.write(f"{json.dumps(action == 'CONTINUE')}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
