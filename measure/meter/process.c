/*
 * What is read where, and how exact it is:
 *
 *   CPU of the process  its CPU clock: nanoseconds, threads that ended and the unreaped process included. A thread that
 *                       runs is behind by what the scheduler has not yet added up, at most a tick (4 ms at 250 Hz)
 *   CPU of a thread     schedstat, likewise
 *   guest time          stat: what the timer tick found, in units of tick_ns
 *   context switches    status
 *   anonymous, shared   status of the first thread: the kernel's counters, which it keeps apart a processor or a
 *                       thread and adds up now and then: behind by up to 64 pages for each
 *   storage             io: bytes that came from and went to storage. Written is when the page cache took it
 *
 * A thread whose schedstat has not changed has not run since, so its other files are not read: a sample costs one small
 * read a thread that sleeps. The threads are read before the process, so that they never add up to more.
 */
#include "process.h"

#include "base/clock.h"
#include "base/fd.h"
#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEW 64        /* threads that are looked at in every sample */
#define COST_SHARE 20 /* looking at the threads takes at most one part in so many of the time */

void process_init(struct process *process)
{
    *process = (struct process){ .pid_fd = -1, .proc_fd = -1, .io_fd = -1, .status_fd = -1 };
    long ticks = sysconf(_SC_CLK_TCK);
    process->tick_ns = CLOCK_SECOND / (uint64_t)(ticks > 0 ? ticks : 100);

    /* Three descriptors a thread. */
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit)) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }

    CLEANUP_FD int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && !text_read(&process->text, fd)) {
        const char *at = process->text.data;
        process->exact = text_number(&at) > 0;
    }
}

static void thread_close(struct thread *thread)
{
    fd_close(&thread->schedstat_fd);
    fd_close(&thread->stat_fd);
    fd_close(&thread->status_fd);
}

void process_fini(struct process *process)
{
    for (unsigned i = 0; i < process->count; i++)
        thread_close(&process->thread[i]);
    free(process->thread);
    if (process->tasks)
        (void)closedir(process->tasks);
    fd_close(&process->pid_fd);
    fd_close(&process->proc_fd);
    fd_close(&process->io_fd);
    fd_close(&process->status_fd);
    text_free(&process->text);
    *process = (struct process){ .pid_fd = -1, .proc_fd = -1, .io_fd = -1, .status_fd = -1 };
}

static void copy_name(char *name, const char *from, size_t len)
{
    len = MIN(len, (size_t)PROCESS_NAME_MAX - 1);
    memcpy(name, from, len);
    name[len] = '\0';
}

int process_hold(struct process *process, pid_t pid, struct err *err)
{
    char path[64];
    CLEANUP_FD int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pid_fd < 0)
        return err_errno(err, ERR_CALLER, errno, "process %d", (int)pid);
    (void)snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    CLEANUP_FD int proc_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP_FD int task_fd =
        proc_fd < 0 ? -1 : openat(proc_fd, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CLEANUP_FD int comm_fd = proc_fd < 0 ? -1 : openat(proc_fd, "comm", O_RDONLY | O_CLOEXEC);
    if (task_fd < 0 || comm_fd < 0)
        return err_errno(err, ERR_CALLER, errno, "%s", path);
    int rc = text_read(&process->text, comm_fd);
    if (rc)
        return err_errno(err, ERR_CALLER, -rc, "%s/comm", path);
    DIR *tasks = fdopendir(task_fd);
    if (!tasks)
        return err_errno(err, ERR_HOST, errno, "%s/task", path);
    (void)TAKE_FD(task_fd);

    copy_name(process->name, process->text.data, strcspn(process->text.data, "\n"));
    process->tasks = tasks;
    process->io_fd =
        openat(proc_fd, "io", O_RDONLY | O_CLOEXEC); /* where it may not be read, it says nothing */
    process->status_fd = openat(proc_fd, "status", O_RDONLY | O_CLOEXEC);
    process->pid_fd = TAKE_FD(pid_fd);
    process->proc_fd = TAKE_FD(proc_fd);
    process->pid = pid;
    return 0;
}

/* ------------------------------------------------------------------------------- threads */

static int open_of(const struct process *process, pid_t tid, const char *file)
{
    char path[48];
    (void)snprintf(path, sizeof(path), "task/%d/%s", (int)tid, file);
    return openat(process->proc_fd, path, O_RDONLY | O_CLOEXEC);
}

/* Fields by their numbers in proc_pid_stat(5); the name may hold blanks and parentheses. */
static void read_stat(struct process *process, struct thread *thread)
{
    if (text_read(&process->text, thread->stat_fd))
        return;
    const char *name = strchr(process->text.data, '('), *end = strrchr(process->text.data, ')');
    if (!name || !end)
        return;
    copy_name(thread->name, name + 1, (size_t)(end - name - 1));
    const char *at = text_skip(end + 1, 14 - 3);
    uint64_t user = text_number(&at), system = text_number(&at);
    at = text_skip(at, 43 - 16);
    thread->guest_ns = text_number(&at) * process->tick_ns;
    if (!process->exact)
        thread->cpu_ns = (user + system) * process->tick_ns;
}

static void read_switches(struct process *process, struct thread *thread)
{
    if (text_read(&process->text, thread->status_fd))
        return;
    (void)text_find(process->text.data, "\nvoluntary_ctxt_switches:", &thread->voluntary);
    (void)text_find(process->text.data, "\nnonvoluntary_ctxt_switches:", &thread->involuntary);
}

/* False: the thread is gone. */
static bool read_thread(struct process *process, struct thread *thread)
{
    uint64_t cpu_ns = thread->cpu_ns, slices = 0;
    int rc = text_read(&process->text, thread->schedstat_fd);
    if (rc == -ESRCH)
        return false;
    if (!rc && process->exact) {
        const char *at = process->text.data;
        cpu_ns = text_number(&at);
        (void)text_number(&at); /* time spent waiting for a processor */
        slices = text_number(&at);
        if (thread->read && cpu_ns == thread->cpu_ns && slices == thread->slices)
            return true; /* has not run since */
    }
    thread->cpu_ns = cpu_ns;
    thread->slices = slices;
    thread->read = true;
    read_stat(process, thread);
    read_switches(process, thread);
    return true;
}

static struct thread *add_thread(struct process *process, pid_t tid)
{
    if (process->count == process->cap) {
        unsigned cap = process->cap ? process->cap * 2 : 16;
        struct thread *thread = realloc(process->thread, cap * sizeof(*thread));
        if (!thread)
            return NULL;
        process->thread = thread;
        process->cap = cap;
    }
    struct thread thread = {
        .tid = tid,
        .schedstat_fd = open_of(process, tid, "schedstat"),
        .stat_fd = open_of(process, tid, "stat"),
        .status_fd = open_of(process, tid, "status"),
    };
    if (thread.stat_fd < 0 || thread.status_fd < 0 || (process->exact && thread.schedstat_fd < 0)) {
        thread_close(&thread); /* gone already */
        return NULL;
    }
    process->thread[process->count] = thread;
    return &process->thread[process->count++];
}

static struct thread *find_thread(struct process *process, pid_t tid, unsigned *hint)
{
    for (unsigned i = 0; i < process->count; i++) {
        unsigned at = (*hint + i) % process->count;
        struct thread *thread = &process->thread[at];
        if (thread->tid == tid && !thread->ended) {
            *hint = at + 1;
            return thread;
        }
    }
    return NULL;
}

static void read_threads(struct process *process)
{
    unsigned hint = 0;
    for (unsigned i = 0; i < process->count; i++)
        process->thread[i].seen = false;
    rewinddir(process->tasks);
    for (struct dirent *entry; (entry = readdir(process->tasks));) {
        const char *name = entry->d_name;
        pid_t tid = (pid_t)text_number(&name);
        if (!tid || *name)
            continue;
        struct thread *thread = find_thread(process, tid, &hint);
        if (thread && !read_thread(process, thread)) {
            thread->ended = true; /* and its number was given to a new one */
            thread = NULL;
        }
        if (!thread) {
            thread = add_thread(process, tid);
            if (thread && !read_thread(process, thread)) {
                thread_close(thread);
                process->count--;
                thread = NULL;
            }
        }
        if (thread)
            thread->seen = true;
    }
    for (unsigned i = 0; i < process->count; i++)
        process->thread[i].ended |= !process->thread[i].seen;
}

static void forget_ended(struct process *process)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < process->count; i++) {
        if (process->thread[i].ended)
            thread_close(&process->thread[i]);
        else
            process->thread[kept++] = process->thread[i];
    }
    process->count = kept;
}

/* ------------------------------------------------------------------------------- the whole process */

/* The CPU clock of a process, made as clock_getcpuclockid(3) makes it. The clock goes by the number, so it counts only
 * if that still was this process afterwards, though it may have ended and wait for its parent. */
static void read_cpu(struct process *process)
{
    struct timespec ts;
    clockid_t clock = (clockid_t)((~(unsigned)process->pid << 3) | 2);
    if (process->ended || clock_gettime(clock, &ts))
        return;
    if (syscall(SYS_pidfd_send_signal, process->pid_fd, 0, NULL, 0) && errno == ESRCH)
        return;
    process->cpu_ns =
        MAX(process->cpu_ns, (uint64_t)ts.tv_sec * CLOCK_SECOND + (uint64_t)ts.tv_nsec);
}

static void read_memory(struct process *process)
{
    uint64_t anon, shmem;
    if (text_read(&process->text, process->status_fd) ||
        !text_find(process->text.data, "\nRssAnon:", &anon) ||
        !text_find(process->text.data, "\nRssShmem:", &shmem))
        return; /* none any more: the last figures stay */
    process->anon_bytes = anon * 1024;
    process->shmem_bytes = shmem * 1024;
    process->has_memory = true;
}

static void read_io(struct process *process)
{
    uint64_t read, written;
    if (text_read(&process->text, process->io_fd) ||
        !text_find(process->text.data, "\nread_bytes:", &read) ||
        !text_find(process->text.data, "\nwrite_bytes:", &written))
        return;
    process->read_bytes = read;
    process->written_bytes = written;
    process->has_io = true;
}

bool process_read(struct process *process, uint64_t now_ns)
{
    if (!process->pid || process->ended)
        return true;
    bool look = process->count <= FEW || now_ns >= process->threads_due;
    if (look) {
        uint64_t from = clock_thread_cpu_ns();
        read_threads(process);
        process->threads_ns = clock_thread_cpu_ns() - from;
        process->threads_due = now_ns + process->threads_ns * (COST_SHARE - 1);
    }
    read_cpu(process);
    read_memory(process);
    read_io(process);
    return look;
}

void process_end(struct process *process)
{
    read_cpu(process);
    process->ended = true;
    for (unsigned i = 0; i < process->count; i++)
        process->thread[i].ended = true;
}

/* ------------------------------------------------------------------------------- JSON */

static void thread_json(const struct thread *thread, struct buf *buf)
{
    json_object(buf, NULL);
    json_u64(buf, "tid", (uint64_t)thread->tid);
    json_text(buf, "name", thread->name);
    json_u64(buf, "cpu_ns", thread->cpu_ns);
    json_u64(buf, "guest_ns", thread->guest_ns);
    json_u64(buf, "voluntary", thread->voluntary);
    json_u64(buf, "involuntary", thread->involuntary);
    if (thread->ended)
        json_bool(buf, "ended", true);
    json_object_end(buf);
}

static void bytes_json(struct buf *buf, const char *key, bool known, uint64_t bytes)
{
    if (known)
        json_u64(buf, key, bytes);
    else
        json_null(buf, key);
}

void process_json(struct process *process, bool looked, struct buf *buf)
{
    if (looked) {
        json_list(buf, "threads");
        for (unsigned i = 0; i < process->count; i++)
            thread_json(&process->thread[i], buf);
        json_list_end(buf);
        forget_ended(process);
    } else {
        json_null(buf, "threads");
    }
    if (!process->pid) {
        json_null(buf, "process");
        return;
    }
    json_object(buf, "process");
    json_u64(buf, "pid", (uint64_t)process->pid);
    json_text(buf, "name", process->name);
    json_u64(buf, "cpu_ns", process->cpu_ns);
    bytes_json(buf, "anon_bytes", process->has_memory, process->anon_bytes);
    bytes_json(buf, "shmem_bytes", process->has_memory, process->shmem_bytes);
    bytes_json(buf, "read_bytes", process->has_io, process->read_bytes);
    bytes_json(buf, "written_bytes", process->has_io, process->written_bytes);
    if (process->ended)
        json_bool(buf, "ended", true);
    json_object_end(buf);
}
