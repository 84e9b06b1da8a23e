#!/usr/bin/env python3
"""A short search with one target: search.py TARGET SECONDS CORPUS CRASHERS

What it finds new goes into a directory that is removed at the end; an input that crashed is printed in base64, and kept
in the build directory under its name. libFuzzer's own status for that is 77, which here would mean "skipped".
"""
import os
import subprocess
import sys
import tempfile


def main():
    target, seconds, *kept = sys.argv[1:]
    kept = [path for path in kept if os.path.isdir(path)]
    with tempfile.TemporaryDirectory(prefix="godwit-fuzz-") as new:
        return subprocess.run([target, f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=4096",
                               "-print_final_stats=1", "-error_exitcode=1", "-max_len=65536",
                               f"-artifact_prefix={target}-", new, *kept], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
