/* What every unit test includes: cmocka wants four headers before its own. */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

/* Where temporary files go: the test runner names a place that it clears, however the test ends. */
static inline const char *test_tmp(void)
{
    const char *dir = getenv("TMPDIR");
    return dir ? dir : "/tmp";
}
