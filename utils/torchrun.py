"""PyTorch's torchrun, which exits with 2 where one of its processes did so, at bad input.

Its own status is 1 whatever ended a process, and launch.sh would try bad input again.
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

BAD_INPUT = 2

if __name__ == "__main__":
    try:
        main()
    except ChildFailedError as error:
        if any(failure.exitcode == BAD_INPUT for failure in error.failures.values()):
            sys.exit(BAD_INPUT)
        raise
