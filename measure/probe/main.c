/* godwit-probe: what a server's clients see, measured from their place. docs/measure.md has what it writes. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

static int complain(const struct err *err, int status)
{
    (void)fprintf(stderr, "godwit-probe: %s\n", err->text);
    return status;
}

/* A closed standard descriptor would be given to the next file opened, and printed into. */
static void open_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) < 0)
            _exit(EXIT_FAILED);
}

static int stay_on(int64_t processor, struct err *err)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)processor, &set);
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        return err_errno(err, ERR_HOST, errno, "--pin %lld", (long long)processor);
    return 0;
}

/* What is not allowed is said, in the facts too, and no reason to stop. */
static bool go_first(void)
{
    struct sched_param param = { .sched_priority = 10 };
    if (sched_setscheduler(0, SCHED_FIFO, &param) < 0) {
        (void)fprintf(stderr, "godwit-probe: --priority: %s; it runs like everybody else\n",
                      strerror(errno));
        return false;
    }
    (void)mlockall(MCL_CURRENT |
                   MCL_FUTURE); /* what may be paged out is late; no harm where it cannot */
    return true;
}

static int probe(struct probe *probe, struct err *err)
{
    struct err facts_err = { 0 };
    int rc = 0;
    if (probe->options.pin >= 0)
        rc = stay_on(probe->options.pin, err);
    if (!rc && probe->options.priority)
        probe->fifo = go_first();
    if (!rc)
        rc = probe_open(probe, err);
    if (!rc) {
        rc = probe_run(probe, err);
        int facts_rc = facts_write(probe, &facts_err);
        if (!rc && facts_rc) {
            *err = facts_err;
            rc = facts_rc;
        }
    }
    probe_close(probe);
    return rc;
}

int main(int argc, char **argv)
{
    static struct probe the_probe; /* zero, and large */
    struct err err = { 0 };
    bool help;
    open_standard_descriptors();
    (void)signal(SIGPIPE, SIG_IGN); /* every write is checked instead */
    (void)signal(SIGXFSZ, SIG_IGN);
    int rc = options_read(&the_probe.options, argc, argv, &help, &err);
    if (rc)
        return complain(&err, rc == -EINVAL ? EXIT_USAGE : EXIT_FAILED);
    if (help) {
        options_help(stdout);
        return fflush(stdout) ? EXIT_FAILED : EXIT_OK;
    }
    return probe(&the_probe, &err) ? complain(&err, EXIT_FAILED) : EXIT_OK;
}
