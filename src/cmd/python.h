/*
 * Commands whose work is done in Python, in the folder `measure`: godwit checks the command line and becomes
 * the interpreter.
 */
#pragma once
#include "cmd/cmd.h"

/*
 * Runs /usr/bin/python3 on the package with the command's name and what was given, each value as it was typed,
 * in the order of its description: "report", then arguments, then "--name=value". The package is beside this
 * program: ../share/godwit/measure, or in the source tree if this program is in the build tree it was made in.
 * Returns only if that fails, with CMD_USAGE.
 */
int python_run(struct cmd_args *args);
