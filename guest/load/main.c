#include "load.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))
#define GIB (1ull << 30)
#define SECOND_NS 1000000000ull

static const struct load loads[] = {
    { "echo", { { "port", 7, 1, 65535 } }, load_echo },
    { "fill",
      { { "rate", 1 << 20, LOAD_PAGE, 64 * GIB }, { "limit", 64 << 20, LOAD_PAGE, 1024 * GIB } },
      load_fill },
    { "muncher",
      { { "size", 64 << 20, LOAD_PAGE, 1024 * GIB }, { "rate", 0, 0, 1024 * GIB } },
      load_muncher },
    { "quake",
      { { "tick_ms", 50, 1, 1000 },
        { "state", 2 << 20, 0, GIB },
        { "packet", 200, 16, 1400 },
        { "port", 27960, 1, 65535 } },
      load_quake },
    { "redis",
      { { "data", 32 << 20, 1 << 10, 64 * GIB }, { "port", 6379, 1, 65535 } },
      load_redis },
};

static int ready_fd = STDOUT_FILENO;

void load_ready(void)
{
    (void)!write(ready_fd, "ready\n", 6);
    if (ready_fd != STDOUT_FILENO)
        close(ready_fd);
}

uint64_t load_now_ns(void)
{
    struct timespec ts = { 0 };
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

void load_sleep_until(uint64_t when_ns)
{
    struct timespec ts = { .tv_sec = (time_t)(when_ns / SECOND_NS),
                           .tv_nsec = (long)(when_ns % SECOND_NS) };
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* The load goes on in a child; waits for its word. The exit status. */
static int in_background(const struct load *load, const uint64_t *value)
{
    int pipe_fd[2], status;
    char byte;
    if (pipe2(pipe_fd, O_CLOEXEC) < 0) {
        perror("godwit-load");
        return 1;
    }
    pid_t pid = fork();
    if (pid == 0) {
        close(pipe_fd[0]);
        ready_fd = pipe_fd[1];
        setsid();
        _exit(load->run(value) ? 1 : 0);
    }
    close(pipe_fd[1]);
    if (pid > 0 && read(pipe_fd[0], &byte, 1) == 1)
        return 0;
    return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                           : 1;
}

int main(int argc, char **argv)
{
    uint64_t value[LOAD_OPTIONS_MAX];
    char why[200];
    int foreground = argc > 1 && strcmp(argv[1], "--foreground") == 0;
    if (argc != 2 + foreground) {
        fputs("usage: godwit-load [--foreground] NAME[,KEY=VALUE...]\nloads:", stderr);
        for (size_t i = 0; i < ARRAY_LEN(loads); i++)
            fprintf(stderr, " %s", loads[i].name);
        fputs("\n", stderr);
        return 2;
    }
    const struct load *load =
        load_parse(loads, ARRAY_LEN(loads), argv[argc - 1], value, why, sizeof(why));
    if (!load) {
        fprintf(stderr, "godwit-load: %s: %s\n", argv[argc - 1], why);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    return foreground ? load->run(value) != 0 : in_background(load, value);
}
