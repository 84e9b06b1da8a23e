#include "cost/meter.h"

#include "base/clock.h"
#include "base/fd.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

void meter_init(struct meter *meter)
{
    *meter = (struct meter){ 0 };
    (void)pthread_mutex_init(&meter->lock, NULL); /* cannot fail with default attributes */
}

void meter_fini(struct meter *meter)
{
    (void)pthread_mutex_destroy(&meter->lock);
}

int meter_thread_enter(struct meter *meter, enum bill_group group)
{
    ASSERT((unsigned)group < BILL_CPU_MAX);
    clockid_t clock;
    int rc = pthread_getcpuclockid(pthread_self(), &clock);
    if (rc)
        return -rc;

    rc = -ENOSPC;
    (void)pthread_mutex_lock(&meter->lock);
    for (int i = 0; i < METER_THREADS_MAX && rc < 0; i++) {
        if (meter->thread[i].used)
            continue;
        meter->thread[i] = (struct meter_thread){ .clock = clock, .group = group, .used = true };
        rc = i;
    }
    (void)pthread_mutex_unlock(&meter->lock);
    return rc;
}

void meter_thread_leave(struct meter *meter, int slot)
{
    if (slot < 0 || slot >= METER_THREADS_MAX)
        return;
    (void)pthread_mutex_lock(&meter->lock);
    struct meter_thread *thread = &meter->thread[slot];
    if (thread->used)
        meter->ended_ns[thread->group] += clock_thread_cpu_ns();
    thread->used = false;
    (void)pthread_mutex_unlock(&meter->lock);
}

static bool read_cpu(struct meter *meter, uint64_t cpu_ns[BILL_CPU_MAX])
{
    uint64_t named = 0;
    (void)pthread_mutex_lock(&meter->lock);
    memcpy(cpu_ns, meter->ended_ns, sizeof(meter->ended_ns));
    for (unsigned i = 0; i < METER_THREADS_MAX; i++)
        if (meter->thread[i].used)
            cpu_ns[meter->thread[i].group] += clock_read_ns(meter->thread[i].clock);
    (void)pthread_mutex_unlock(&meter->lock);

    /* The process is read after its threads, so it is never less than they are. */
    struct timespec ts;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) < 0)
        return false;
    uint64_t process_ns = (uint64_t)ts.tv_sec * CLOCK_SECOND + (uint64_t)ts.tv_nsec;
    for (unsigned i = 0; i < BILL_CPU_MAX; i++)
        named += cpu_ns[i];
    cpu_ns[BILL_CPU_OTHER] += process_ns > named ? process_ns - named : 0;
    return true;
}

/* The number after "\n<key>:" in a file of /proc. */
static bool find_number(const char *file, const char *key, uint64_t *ret)
{
    size_t len = strlen(key);
    for (const char *line = file; line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, key, len) != 0 || line[len] != ':')
            continue;
        char *end;
        errno = 0;
        unsigned long long v = strtoull(line + len + 1, &end, 10);
        if (errno || end == line + len + 1)
            return false;
        *ret = v;
        return true;
    }
    return false;
}

static bool read_memory(uint64_t *ret_bytes)
{
    char *file;
    size_t len;
    uint64_t kib;
    if (fd_read_file("/proc/self/status", 65536, &file, &len) < 0)
        return false;
    bool found = find_number(file, "RssAnon", &kib);
    free(file);
    if (found)
        *ret_bytes = kib * 1024;
    return found;
}

static bool read_disk(uint64_t *ret_read, uint64_t *ret_written)
{
    char *file;
    size_t len;
    if (fd_read_file("/proc/self/io", 4096, &file, &len) < 0)
        return false;
    bool found =
        find_number(file, "read_bytes", ret_read) && find_number(file, "write_bytes", ret_written);
    free(file);
    return found;
}

void meter_read(struct meter *meter, struct meter_sample *ret)
{
    *ret = (struct meter_sample){ .at_ns = clock_now_ns() };
    if (read_cpu(meter, ret->cpu_ns))
        ret->measured |= BILL_MEASURED_CPU;
    if (read_memory(&ret->memory_bytes))
        ret->measured |= BILL_MEASURED_MEMORY;
    if (read_disk(&ret->disk_read_bytes, &ret->disk_written_bytes))
        ret->measured |= BILL_MEASURED_DISK;
}

void meter_span_begin(struct meter *meter, struct meter_span *span)
{
    meter_read(meter, &span->before);
    span->memory_peak_bytes = span->before.memory_bytes;
}

void meter_span_tick(struct meter_span *span)
{
    uint64_t bytes;
    if (read_memory(&bytes))
        span->memory_peak_bytes = MAX(span->memory_peak_bytes, bytes);
}

/* tcpi_total_retrans is cumulative, and the connection is the move's own. */
static bool read_tcp(int fd, uint64_t *ret_retransmits, uint64_t *ret_rtt_us)
{
    struct tcp_info info = { 0 };
    socklen_t len = sizeof(info);
    if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
        len < offsetof(struct tcp_info, tcpi_total_retrans) + sizeof(info.tcpi_total_retrans))
        return false;
    *ret_retransmits = info.tcpi_total_retrans;
    *ret_rtt_us = info.tcpi_rtt;
    return true;
}

static uint64_t grown(uint64_t before, uint64_t after)
{
    return after > before ? after - before : 0;
}

void meter_span_end(struct meter *meter, struct meter_span *span, int tcp_fd, struct bill_side *ret)
{
    struct meter_sample now;
    const struct meter_sample *before = &span->before;
    meter_read(meter, &now);

    *ret = (struct bill_side){
        .measured = before->measured & now.measured,
        .wall_ns = grown(before->at_ns, now.at_ns),
        .memory_before_bytes = before->memory_bytes,
        .memory_peak_bytes = MAX(span->memory_peak_bytes, now.memory_bytes),
        .disk_read_bytes = grown(before->disk_read_bytes, now.disk_read_bytes),
        .disk_written_bytes = grown(before->disk_written_bytes, now.disk_written_bytes),
    };
    for (unsigned i = 0; i < BILL_CPU_MAX; i++)
        ret->cpu_ns[i] = grown(before->cpu_ns[i], now.cpu_ns[i]);
    if (read_tcp(tcp_fd, &ret->tcp_retransmits, &ret->tcp_rtt_us))
        ret->measured |= BILL_MEASURED_TCP;
    (void)gethostname(ret->host, sizeof(ret->host) - 1);
}
