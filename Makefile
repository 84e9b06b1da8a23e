# Everything a newcomer needs. Each target sets up the machine by itself (scripts/setup: Debian
# packages, only those missing, as root); the build proper is Meson's, in build/.
#
#   make          build/src/cmd/godwit and the rest
#   make demo     boot a web server's guest and move it live under load; bill in build/demo/bill.json
#   make test     build and run every test this machine can run; says which it skipped and why
#   make bench    measure against QEMU; results in build/bench/bench.json
#   make lint     layering, layout, clang-tidy, cppcheck
#   make format   lay the C files out as .clang-format says
#   make clean    remove the build directories (caches under ~/.cache/godwit stay)

MAKEFLAGS += --no-print-directory
C_FILES = $(shell find src tests guest demo bench -name '*.[ch]' 2>/dev/null)

.PHONY: all setup demo test bench lint format clean

all: setup
	@test -f build/build.ninja || meson setup build
	@ninja -C build

setup:
	@scripts/setup

demo: all
	@demo/run

test: setup
	@scripts/run-tests

bench: all
	@bench/bench.py

lint: all
	@scripts/lint

format: setup
	@clang-format -i $(C_FILES)

clean:
	@rm -rf build build-*
