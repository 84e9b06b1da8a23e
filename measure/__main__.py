# SPDX-License-Identifier: Apache-2.0
"""What `godwit measure` and `godwit report` become: python3 measure --godwit PROGRAM COMMAND WORDS..."""
import sys

from godwit_measure.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
