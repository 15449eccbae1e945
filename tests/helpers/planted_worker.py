"""A worker with planted faults, in the language of bench/contenders/protocol.py: see tests/bench/test_soak.py. It makes no clip.

`python planted_worker.py FAULT`: `healthy`, `leaks` (1 MB with each clip), `slows` (0.4% with each), `fails` (clip 7), `dies`
(at clip 7, once: the process after it goes on), `opens` (a file with each clip, and closes none).
"""

from __future__ import annotations

import json
import os
import sys
import time

FACTS = {"engine": "planted", "version": "1", "provider": [], "precision": [], "threads": 1}


def main() -> None:
    fault, held, clips = sys.argv[1], [], 0
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"ok": True, "stages": {}}
        if request["do"] == "make":
            clips += 1
            seconds = 0.001
            if fault == "leaks":
                held.append(b"\1" * 1_000_000)
            if fault == "opens":
                held.append(os.open(os.devnull, os.O_RDONLY))
            if fault == "slows":
                seconds *= 1 + 0.01 * clips
            if fault == "dies" and request["seed"] == 6:
                os._exit(3)
            time.sleep(0.0005)
            answer = {"ok": True, "engine": FACTS}
            answer["clip"] = {"total": seconds, "stages": {"denoise": seconds}, "details": {}}
            if fault == "fails" and clips == 7:
                answer = {"ok": False, "error": "planted: clip 7 cannot be made"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
