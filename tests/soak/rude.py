"""
Clients that behave badly, some at a time: ``python -m soak.rude PORT``.

Ends when its input does, and prints how often it was rude.
"""

from __future__ import annotations

import random
import sys
import threading
from contextlib import suppress
from itertools import count

from faults.rudeness import RUDENESS, Place

AT_A_TIME = 4


def main(port: int) -> None:
    over = threading.Event()
    times = count()
    place = Place(("127.0.0.1", port), "/topics/news0", "/topics/large", "/topics/rude")
    place = place._replace(publish=f"{place.publish}?access_token=secret")
    names = list(RUDENESS)

    def be_rude() -> None:
        while not over.wait(random.random() / 5):
            # While nobody takes connections, they wait in vain.
            with suppress(OSError):
                RUDENESS[random.choice(names)](place)
            next(times)

    threads = [threading.Thread(target=be_rude) for _ in range(AT_A_TIME)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    print(next(times))


if __name__ == "__main__":
    main(int(sys.argv[1]))
