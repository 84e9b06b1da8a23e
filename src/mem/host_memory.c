#include "mem/host_memory.h"
#include "base/fd.h"

#include <stdlib.h>
#include <string.h>

uint64_t host_memory_available(void)
{
    CLEANUP_FREE char *text = NULL;
    size_t len;
    if (fd_read_file("/proc/meminfo", 1 << 16, &text, &len) < 0)
        return UINT64_MAX;
    const char *line = strstr(text, "MemAvailable:");
    return line ? strtoull(line + strlen("MemAvailable:"), NULL, 10) << 10 : UINT64_MAX;
}
