#include "guest.h"
#include "observe.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: godwit-agent [--config FILE]      serve the monitor of this guest\n"
    "       godwit-agent --check [FILE]       read a configuration and say what is wrong\n"
    "       godwit-agent observe [FILE]       measure what this guest notices, as the configuration allows\n"
    "       godwit-agent migrate HOST[:PORT]  move this guest to another host\n"
    "       godwit-agent --version\n"
    "Exit status of migrate: 0 it runs there now, 1 refused or failed, 3 not known.\n";

int main(int argc, char **argv)
{
    static struct guest guest = { .proc = "/proc", .cgroup = "/sys/fs/cgroup" };
    const char *path = "/etc/godwit-agent.conf";
    const char *word = argc > 1 ? argv[1] : "";

    if (argc == 3 && strcmp(word, "migrate") == 0)
        return guest_migrate(argv[2]);
    if (argc == 2 && strcmp(word, "--version") == 0)
        return printf("godwit-agent %s\n", GODWIT_VERSION) < 0;
    if (argc == 2 && strcmp(word, "--help") == 0)
        return fputs(usage, stdout) < 0;
    bool check = argc > 1 && argc <= 3 && strcmp(word, "--check") == 0;
    bool observe = argc > 1 && argc <= 3 && strcmp(word, "observe") == 0;
    if (argc != 1 && !check && !observe && !(argc == 3 && strcmp(word, "--config") == 0)) {
        fputs(usage, stderr);
        return 2;
    }
    if (argc == 3)
        path = argv[2];
    if (!guest_config_read(&guest.config, path))
        return 2;
    return check ? 0 : observe ? observe_run(&guest.config) : guest_serve(&guest);
}
