/*
 * Work of known size, for the meter to be compared with: it says what it did by its own counters.
 *
 *     work KIND [NUMBER...]
 *
 * Every kind prints a line of JSON when it is ready, does its work when it reads a line, prints its counters,
 * waits for the next line, and prints them again: whatever a meter saw in between lies between the two. It ends with
 * its input.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000ULL
#define THREADS_MAX 512

typedef unsigned long long u64;

static void must(int good, const char *what)
{
    if (!good) {
        perror(what);
        exit(1);
    }
}

static u64 now(clockid_t id)
{
    struct timespec ts;
    must(!clock_gettime(id, &ts), "clock_gettime");
    return (u64)ts.tv_sec * NS + (u64)ts.tv_nsec;
}

/* Whether there was another line. */
static int next_line(void)
{
    char c;
    ssize_t n;
    while ((n = read(0, &c, 1)) == 1 && c != '\n')
        ;
    return n == 1;
}

static void say(const char *text)
{
    must(write(1, text, strlen(text)) == (ssize_t)strlen(text), "write");
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    must(!sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

static void burn(u64 ns)
{
    u64 until = now(CLOCK_THREAD_CPUTIME_ID) + ns;
    while (now(CLOCK_THREAD_CPUTIME_ID) < until)
        ;
}

/* ------------------------------------------------------------------------------- threads and their counters */

struct worker {
    pthread_t thread;
    int number, cpu, tid;
    u64 cpu_ns, from_ns, to_ns;
    long voluntary, involuntary;
};

static struct worker workers[THREADS_MAX];
static int worker_count, rounds, pipes[2][2];
static u64 burn_ns;
static pthread_barrier_t barrier;

static void count(struct worker *worker)
{
    struct rusage usage;
    must(!getrusage(RUSAGE_THREAD, &usage), "getrusage");
    worker->voluntary = usage.ru_nvcsw;
    worker->involuntary = usage.ru_nivcsw;
    worker->cpu_ns = now(CLOCK_THREAD_CPUTIME_ID);
}

/* The process's own counters, and those the workers took of themselves. */
static void say_counters(void)
{
    static char line[THREADS_MAX * 128];
    struct rusage usage;
    must(!getrusage(RUSAGE_SELF, &usage), "getrusage");
    u64 used = ((u64)usage.ru_utime.tv_sec + (u64)usage.ru_stime.tv_sec) * NS +
               ((u64)usage.ru_utime.tv_usec + (u64)usage.ru_stime.tv_usec) * 1000;
    int len =
        sprintf(line, "{\"cpu_ns\": %llu, \"rusage_ns\": %llu, \"at_ns\": %llu, \"threads\": [",
                now(CLOCK_PROCESS_CPUTIME_ID), used, now(CLOCK_MONOTONIC));
    for (int i = 0; i < worker_count; i++)
        len +=
            sprintf(line + len,
                    "%s{\"tid\": %d, \"cpu_ns\": %llu, \"voluntary\": %ld, \"involuntary\": %ld, "
                    "\"from_ns\": %llu, \"to_ns\": %llu}",
                    i ? ", " : "", workers[i].tid, workers[i].cpu_ns, workers[i].voluntary,
                    workers[i].involuntary, workers[i].from_ns, workers[i].to_ns);
    strcpy(line + len, "]}\n");
    say(line);
}

/* Ready, work, counters, wait, counters: main keeps step with the workers at the barrier. */
static void lead(void)
{
    pthread_barrier_wait(&barrier); /* all are ready */
    say_counters();
    must(next_line(), "a line");
    pthread_barrier_wait(&barrier); /* work */
    pthread_barrier_wait(&barrier); /* done, and counted */
    say_counters();
    must(next_line(), "a line");
    pthread_barrier_wait(&barrier); /* count again */
    pthread_barrier_wait(&barrier);
    say_counters();
    while (next_line())
        ;
}

static void *worker_main(void *arg, void (*work)(struct worker *))
{
    struct worker *worker = arg;
    worker->tid = gettid();
    if (worker->cpu >= 0)
        pin(worker->cpu);
    count(worker);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    worker->from_ns = now(CLOCK_MONOTONIC);
    work(worker);
    worker->to_ns = now(CLOCK_MONOTONIC);
    count(worker);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    count(worker);
    pthread_barrier_wait(&barrier);
    (void)pause(); /* main ends the process */
    return NULL;
}

static void start(int n, void *(*fn)(void *))
{
    worker_count = n;
    must(n <= THREADS_MAX && !pthread_barrier_init(&barrier, NULL, (unsigned)n + 1),
         "pthread_barrier_init");
    for (int i = 0; i < n; i++) {
        workers[i].number = i;
        must(!pthread_create(&workers[i].thread, NULL, fn, &workers[i]), "pthread_create");
    }
}

static void burn_work(struct worker *worker)
{
    (void)worker;
    burn(burn_ns);
}

static void *burn_main(void *arg)
{
    return worker_main(arg, burn_work);
}

/* One byte goes to and fro: on one processor, each read has to wait for the other thread. */
static void ping_work(struct worker *worker)
{
    int in = pipes[worker->number][0], out = pipes[!worker->number][1];
    char byte = 0;
    for (int i = 0; i < rounds; i++) {
        if (!worker->number)
            must(write(out, &byte, 1) == 1, "write");
        must(read(in, &byte, 1) == 1, "read");
        if (worker->number)
            must(write(out, &byte, 1) == 1, "write");
    }
}

static void *ping_main(void *arg)
{
    return worker_main(arg, ping_work);
}

static void idle_work(struct worker *worker)
{
    (void)worker;
}

static void *idle_main(void *arg)
{
    return worker_main(arg, idle_work);
}

/* ------------------------------------------------------------------------------- kinds */

/* Each of N threads burns so many ms of CPU, on processors of its own (1) or all on the first (0). */
static void kind_burn(char **argv)
{
    int n = atoi(argv[0]), apart = atoi(argv[2]);
    burn_ns = (u64)atoll(argv[1]) * 1000000;
    for (int i = 0; i < n; i++)
        workers[i].cpu = apart ? i % (int)sysconf(_SC_NPROCESSORS_ONLN) : 0;
    if (!apart)
        pin(0);
    start(n, burn_main);
    lead();
}

static void kind_ping(char **argv)
{
    rounds = atoi(argv[0]);
    must(!pipe(pipes[0]) && !pipe(pipes[1]), "pipe");
    pin(0);
    start(2, ping_main);
    lead();
}

static void kind_idle(char **argv)
{
    for (int i = 0; i < atoi(argv[0]); i++)
        workers[i].cpu = -1;
    start(atoi(argv[0]), idle_main);
    lead();
}

static void *brief_main(void *arg)
{
    (void)arg;
    burn(burn_ns);
    return NULL;
}

/* A line starts a thread that burns so many ms and ends at once. */
static void kind_brief(char **argv)
{
    burn_ns = (u64)atoll(argv[0]) * 1000000;
    say_counters();
    while (next_line()) {
        pthread_t thread;
        must(!pthread_create(&thread, NULL, brief_main, NULL) && !pthread_join(thread, NULL),
             "thread");
        say_counters();
    }
}

/* A thread that lives until the next line, then one line more. */
static void *lingering_main(void *arg)
{
    workers[0].tid = gettid();
    must(!pthread_setname_np(pthread_self(), "odd \") name"), "pthread_setname_np");
    pthread_barrier_wait(&barrier);
    return next_line() ? arg : NULL;
}

static void kind_linger(char **argv)
{
    (void)argv;
    worker_count = 1;
    must(!pthread_barrier_init(&barrier, NULL, 2), "barrier");
    must(!pthread_create(&workers[0].thread, NULL, lingering_main, NULL), "thread");
    pthread_barrier_wait(&barrier);
    say_counters();
    must(!pthread_join(workers[0].thread, NULL), "join");
    say_counters();
    while (next_line())
        ;
}

/* So many bytes of anonymous, and so many of shared memory. */
static void kind_memory(char **argv)
{
    size_t anon = (size_t)atoll(argv[0]), shared = (size_t)atoll(argv[1]);
    int fd = memfd_create("work", 0);
    must(fd >= 0 && !ftruncate(fd, (off_t)shared), "memfd");
    void *a = mmap(NULL, anon, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *s = mmap(NULL, shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(a != MAP_FAILED && s != MAP_FAILED, "mmap");
    say("{}\n");
    must(next_line(), "a line");
    memset(a, 1, anon);
    memset(s, 1, shared);
    say("{}\n");
    must(next_line(), "a line");
    must(!munmap(a, anon), "munmap");
    say("{}\n");
    while (next_line())
        ;
}

/* So many bytes to a file, durably. */
static void kind_write(char **argv)
{
    static char block[1 << 16];
    size_t bytes = (size_t)atoll(argv[0]);
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0, argv[1]);
    memset(block, 'w', sizeof(block));
    say("{}\n");
    must(next_line(), "a line");
    for (size_t done = 0; done < bytes; done += sizeof(block))
        must(write(fd, block, sizeof(block)) == sizeof(block), "write");
    must(!fdatasync(fd), "fdatasync");
    say("{}\n");
    while (next_line())
        ;
}

static void move_bytes(int from, int to, size_t bytes)
{
    static char block[1 << 16];
    for (size_t done = 0; done < bytes;) {
        size_t len = bytes - done < sizeof(block) ? bytes - done : sizeof(block);
        must(write(from, block, len) == (ssize_t)len, "send");
        for (size_t got = 0; got < len;) {
            ssize_t n = read(to, block, len - got);
            must(n > 0, "receive");
            got += (size_t)n;
        }
        done += len;
    }
}

/* Both ends of one connection, and their ports. */
static void connect_pair(int ends[2], unsigned ports[2])
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t len = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    must(!bind(listener, (struct sockaddr *)&address, sizeof(address)) && !listen(listener, 1),
         "listen");
    must(!getsockname(listener, (struct sockaddr *)&address, &len), "getsockname");
    ports[1] = ntohs(address.sin_port);
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    must(!connect(ends[0], (struct sockaddr *)&address, sizeof(address)), "connect");
    must(!getsockname(ends[0], (struct sockaddr *)&address, &len), "getsockname");
    ports[0] = ntohs(address.sin_port);
    ends[1] = accept(listener, NULL, NULL);
    must(ends[1] >= 0, "accept");
    close(listener);
}

/*
 * In a network of its own: a connection to itself that carries so many bytes one way and so many the other;
 * then, with the next line, the first again, after which both ends close at once. A child has a connection that
 * is nobody else's.
 */
static void kind_tcp(char **argv)
{
    size_t there = (size_t)atoll(argv[0]), back = (size_t)atoll(argv[1]);
    char line[128];
    int ends[2];
    unsigned ports[2];
    must(!unshare(CLONE_NEWNET), "unshare");
    struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    int any = socket(AF_INET, SOCK_DGRAM, 0);
    must(!ioctl(any, SIOCSIFFLAGS, &lo), "lo");
    close(any);
    int hold[2];
    must(!pipe(hold), "pipe");
    pid_t child = fork();
    if (!child) {
        close(hold[1]);
        connect_pair(ends, ports);
        move_bytes(ends[0], ends[1], 1000);
        char c;
        must(!read(hold[0], &c, 1), "read"); /* until the parent ends */
        _exit(0);
    }
    close(hold[0]);
    say("{}\n");
    must(next_line(), "a line");
    connect_pair(ends, ports);
    move_bytes(ends[0], ends[1], there);
    move_bytes(ends[1], ends[0], back);
    sprintf(line, "{\"ports\": [%u, %u]}\n", ports[0], ports[1]);
    say(line);
    must(next_line(), "a line");
    move_bytes(ends[0], ends[1], there);
    close(ends[0]);
    close(ends[1]);
    say("{}\n");
    while (next_line())
        ;
    close(hold[1]);
    must(waitpid(child, NULL, 0) == child, "waitpid");
}

/* Calls itself so when a line comes. */
static void kind_name(char **argv)
{
    say("{}\n");
    must(next_line(), "a line");
    must(!prctl(PR_SET_NAME, argv[0]), "prctl");
    say("{}\n");
    while (next_line())
        ;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int arguments;
        void (*fn)(char **argv);
    } kinds[] = {
        { "burn", 3, kind_burn },   { "ping", 1, kind_ping },     { "idle", 1, kind_idle },
        { "brief", 1, kind_brief }, { "linger", 0, kind_linger }, { "memory", 2, kind_memory },
        { "write", 2, kind_write }, { "tcp", 2, kind_tcp },       { "name", 1, kind_name },
    };
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (argc == kinds[i].arguments + 2 && !strcmp(argv[1], kinds[i].name)) {
            kinds[i].fn(argv + 2);
            return 0;
        }
    }
    (void)fprintf(stderr, "work: no such kind of work\n");
    return 2;
}
