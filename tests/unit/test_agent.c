/* The monitor and the guest agent, each against its lines, against nonsense, and against one another. */
#include "../../guest/agent/guest.h"
#include "base/clock.h"
#include "base/fd.h"
#include "vmm/agent.h"

#include "test.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static_assert(GUEST_PORT == AGENT_PORT && GUEST_LINE_MAX == AGENT_LINE_MAX,
              "both sides mean the same port and lines");

static char dir[128];

static void put(const char *file, const char *text)
{
    char path[300];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, file);
    for (char *slash = path + strlen(dir) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_true(fputs(text, out) >= 0);
    assert_int_equal(fclose(out), 0);
}

static char *get(const char *file)
{
    static char text[256];
    char path[300];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, file);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    assert_true(n >= 0);
    (void)close(fd);
    text[n] = '\0';
    return text;
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof(dir), "%s/agent-XXXXXX", test_tmp());
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[200];
    (void)state;
    (void)snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

/* ------------------------------------------------------------------------------ the guest's side */

static void test_configuration(void **state)
{
    (void)state;
    struct guest_config c;
    const char *why;
    assert_int_equal(guest_config_parse(&c, "", &why), 0);
    assert_false(c.drop_page_cache || c.freeze_count || c.idle_count);
    assert_int_equal(guest_config_parse(&c,
                                        "# a comment\n\npage-cache drop\nfreeze batch/jobs # why\n"
                                        "  idle\tstress-ng\nidle dd\r\nlimit 30",
                                        &why),
                     0);
    assert_true(c.drop_page_cache);
    assert_int_equal(c.freeze_count, 1);
    assert_string_equal(c.freeze[0], "batch/jobs");
    assert_int_equal(c.idle_count, 2);
    assert_string_equal(c.idle[1], "dd");
    assert_int_equal(c.limit_ms, 30000);

    static const char *const bad[] = { "page-cache",
                                       "page-cache yes",
                                       "freeze /",
                                       "freeze ../x",
                                       "freeze a/../b",
                                       "freeze a//b",
                                       "freeze a/",
                                       "freeze",
                                       "idle",
                                       "limit 0",
                                       "limit 601",
                                       "limit 1x",
                                       "limit -1",
                                       "limit",
                                       "colour blue",
                                       "page-cache drop x",
                                       "idle sixteen-letters-" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        char text[64];
        (void)snprintf(text, sizeof(text), "limit 5\n%s\n", bad[i]);
        if (guest_config_parse(&c, text, &why) != 2)
            fail_msg("'%s' was taken", bad[i]);
    }
    char many[200] = "";
    for (unsigned i = 0; i < 9; i++)
        strcat(many, "idle x\n");
    assert_int_equal(guest_config_parse(&c, many, &why), 9);
}

/* An agent whose /proc and cgroups are files of the test. */
static struct guest *fake_guest(void)
{
    static struct guest guest;
    static char proc[160], cgroup[160];
    (void)snprintf(proc, sizeof(proc), "%s/proc", dir);
    (void)snprintf(cgroup, sizeof(cgroup), "%s/cgroup", dir);
    guest = (struct guest){ .proc = proc, .cgroup = cgroup };
    guest.config.limit_ms = 60000;
    put("proc/self/cgroup", "0::/system/agent\n");
    put("proc/meminfo", "MemTotal: 9 kB\nBuffers: 100 kB\nCached: 900 kB\n");
    put("proc/sys/vm/drop_caches", "0");
    return &guest;
}

static void answers(struct guest *guest, const char *line, const char *want)
{
    char reply[512];
    guest_answer(guest, line, reply, sizeof(reply));
    assert_string_equal(reply, want);
}

static void test_strict_requests(void **state)
{
    (void)state;
    struct guest *guest = fake_guest();
    answers(guest, "hello version=1",
            "ok version=1 agent=" GODWIT_VERSION " page_cache=0 slow=0\n");
    answers(guest, "hello version=7",
            "ok version=1 agent=" GODWIT_VERSION " page_cache=0 slow=0\n");
    static const char *const bad[] = { "",
                                       "hello",
                                       "hello version=",
                                       "hello version=1 ",
                                       "hello  version=1",
                                       "hello version=99999999999999999999999",
                                       "before-last-round",
                                       "before-last-round slow=2 limit_ms=1",
                                       "before-last-round slow=1 limit_ms=600001",
                                       "before-last-round slow=1 limit_ms=-1",
                                       "before-last-round limit_ms=1 slow=1",
                                       "after-move now",
                                       "AFTER-MOVE",
                                       "run rm" };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        answers(guest, bad[i], "error no such request\n");
}

static void test_freezes_and_thaws(void **state)
{
    (void)state;
    struct guest *guest = fake_guest();
    const char *why;
    assert_int_equal(guest_config_parse(&guest->config,
                                        "page-cache drop\nfreeze batch\nfreeze held\n"
                                        "freeze system\nfreeze none\n",
                                        &why),
                     0);
    put("cgroup/batch/cgroup.freeze", "0\n");
    put("cgroup/batch/cgroup.events", "populated 1\nfrozen 1\n");
    put("cgroup/held/cgroup.freeze", "1\n");   /* by someone else */
    put("cgroup/system/cgroup.freeze", "0\n"); /* the agent's own */
    answers(guest, "before-last-round slow=1 limit_ms=1000", "ok page_cache_bytes=0 slowed=1\n");
    assert_int_equal(get("cgroup/batch/cgroup.freeze")[0], '1');
    assert_int_equal(get("cgroup/system/cgroup.freeze")[0], '0');
    assert_int_equal(get("proc/sys/vm/drop_caches")[0], '1');
    assert_true(guest->restore_at_ms > 0);
    answers(guest, "after-move", "ok restored=1\n");
    assert_int_equal(get("cgroup/batch/cgroup.freeze")[0], '0');
    assert_int_equal(get("cgroup/held/cgroup.freeze")[0], '1');
    answers(guest, "after-move", "ok restored=0\n");
    put("proc/sys/vm/drop_caches", "0");
    answers(guest, "before-last-round slow=0 limit_ms=1000", "ok page_cache_bytes=0 slowed=0\n");
    assert_int_equal(get("cgroup/batch/cgroup.freeze")[0], '0');
    assert_int_equal(get("proc/sys/vm/drop_caches")[0], '1');
}

/* A process of a name, by way of the real /proc. */
static void test_idles_a_named_process(void **state)
{
    (void)state;
    struct guest guest = { .proc = "/proc", .cgroup = "/nowhere" };
    const char *why;
    assert_int_equal(guest_config_parse(&guest.config, "idle godwit-t-idle\n", &why), 0);
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        (void)prctl(PR_SET_NAME, "godwit-t-idle");
        (void)!write(ready[1], "x", 1);
        for (;;)
            (void)pause();
    }
    char byte;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(guest_slow(&guest, 1000), 1);
    assert_int_equal(sched_getscheduler(pid), SCHED_IDLE);
    assert_int_equal(guest_restore(&guest), 1);
    assert_int_equal(sched_getscheduler(pid), SCHED_OTHER);
    /* A task that is another by now is left alone. */
    assert_int_equal(guest_slow(&guest, 1000), 1);
    guest.task[0].start++;
    assert_int_equal(guest_restore(&guest), 0);
    assert_int_equal(sched_getscheduler(pid), SCHED_IDLE);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    (void)close(ready[0]);
    (void)close(ready[1]);
}

static int served_fd;

static void *serve_fd(void *arg)
{
    guest_serve_connection(arg, served_fd, -1);
    return NULL;
}

static void test_gives_up_by_itself(void **state)
{
    (void)state;
    struct guest *guest = fake_guest();
    const char *why;
    int pair[2];
    assert_int_equal(guest_config_parse(&guest->config, "freeze batch\n", &why), 0);
    put("cgroup/batch/cgroup.freeze", "0\n");
    put("cgroup/batch/cgroup.events", "frozen 1\n");
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    static const char line[] = "before-last-round slow=1 limit_ms=20\n";
    assert_int_equal(send(pair[0], line, strlen(line), 0), strlen(line));
    served_fd = pair[1];
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, serve_fd, guest), 0);
    char reply[64];
    assert_true(recv(pair[0], reply, sizeof(reply), 0) > 0);
    /* The connection stays open and silent, and what was frozen is freed. */
    uint64_t end = guest_now_ms() + 20000;
    while (get("cgroup/batch/cgroup.freeze")[0] != '0')
        assert_true(guest_now_ms() < end);
    (void)close(pair[0]);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(guest->restore_at_ms, 0);
}

static void test_program(void **state)
{
    (void)state;
    struct stat info;
    assert_int_equal(stat(AGENT_PROGRAM, &info), 0);
    assert_true(info.st_size < 200 * 1024);
    char *bytes;
    size_t len;
    assert_int_equal(fd_read_file(AGENT_PROGRAM, 1 << 20, &bytes, &len), 0);
    Elf64_Ehdr head;
    memcpy(&head, bytes, sizeof(head));
    for (unsigned i = 0; i < head.e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, bytes + head.e_phoff + i * sizeof(segment), sizeof(segment));
        assert_int_not_equal(segment.p_type, PT_INTERP); /* it needs nothing of the guest */
    }
    free(bytes);
    put("bad.conf", "page-cache drop\nfreeze ..\n");
    char command[400];
    (void)snprintf(command, sizeof(command), AGENT_PROGRAM " --check %s/bad.conf 2>%s/said", dir,
                   dir);
    assert_int_equal(WEXITSTATUS(system(command)), 2);
    assert_non_null(strstr(get("said"), "line 2"));
}

/* ---------------------------------------------------------------------------- the monitor's side */

struct fixture {
    struct loop loop;
    struct agent agent;
    int theirs; /* the guest's end of the connection last made */
    int refuse;
    unsigned calls;
    struct agent_reply reply;
};
static struct fixture f;

static int dial(void *ctx, int *ret_fd)
{
    int pair[2];
    (void)ctx;
    if (f.refuse)
        return f.refuse;
    fd_close(&f.theirs);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
    *ret_fd = pair[0];
    f.theirs = pair[1];
    return 0;
}

static void on_reply(void *arg, const struct agent_reply *reply)
{
    assert_ptr_equal(arg, &f);
    f.reply = *reply;
    f.calls++;
}

static int setup_monitor(void **state)
{
    f = (struct fixture){ .theirs = -1 };
    assert_int_equal(loop_init(&f.loop), 0);
    assert_int_equal(agent_init(&f.agent, &f.loop, dial, NULL), 0);
    return setup(state);
}

static int teardown_monitor(void **state)
{
    agent_fini(&f.agent);
    fd_close(&f.theirs);
    loop_fini(&f.loop);
    return teardown(state);
}

static void ask(enum agent_verb verb, uint64_t limit_ns)
{
    f.calls = 0;
    agent_ask(&f.agent,
              &(struct agent_request){
                  .verb = verb, .slow = true, .restore_ns = CLOCK_SECOND, .limit_ns = limit_ns },
              on_reply, &f);
}

static void turn_until_answered(void)
{
    uint64_t end = clock_now_ns() + 20 * CLOCK_SECOND;
    while (!f.calls && clock_now_ns() < end)
        assert_int_equal(loop_once(&f.loop, 100), 0);
    assert_int_equal(f.calls, 1);
}

static void test_answers_are_parsed_strictly(void **state)
{
    (void)state;
    struct agent_reply r = { 0 };
    assert_int_equal(agent_parse(AGENT_HELLO, "ok version=1 agent=0.1.0 page_cache=1 slow=3", &r),
                     0);
    assert_string_equal(r.version, "0.1.0");
    assert_int_equal(r.slow, 3);
    assert_int_equal(agent_parse(AGENT_BEFORE, "ok page_cache_bytes=4096 slowed=2", &r), 0);
    assert_int_equal(r.page_cache_bytes, 4096);
    assert_int_equal(agent_parse(AGENT_AFTER, "ok restored=2", &r), 0);
    assert_int_equal(agent_parse(AGENT_AFTER, "error no such request", &r), -EREMOTEIO);
    static const char *const bad[] = {
        "",
        "ok",
        "ok restored=",
        "ok restored=-1",
        "ok restored=1 ",
        "ok restored=1 more=2",
        "ok  restored=1",
        "okay restored=1",
        "ok slowed=1",
        "ok restored=9999999999999999999",
        "ok restored=0x1",
        "<html>",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (agent_parse(AGENT_AFTER, bad[i], &r) != -EPROTO)
            fail_msg("'%s' was taken", bad[i]);
    assert_int_equal(agent_parse(AGENT_HELLO, "ok version=1 agent=\033[2J page_cache=1 slow=3", &r),
                     -EPROTO);
    assert_int_equal(agent_parse(AGENT_HELLO,
                                 "ok version=1 agent=0123456789012345678901234567890123456789 "
                                 "page_cache=1 slow=3",
                                 &r),
                     -EPROTO);
}

static void test_no_agent(void **state)
{
    (void)state;
    f.refuse = -ENOTCONN;
    ask(AGENT_HELLO, CLOCK_SECOND);
    assert_int_equal(f.calls, 1); /* at once */
    assert_int_equal(f.reply.rc, -ENOTCONN);
    f.refuse = 0;
    ask(AGENT_HELLO, CLOCK_SECOND);
    fd_close(&f.theirs);
    turn_until_answered();
    assert_int_equal(f.reply.rc, -ECONNREFUSED);
    assert_false(f.reply.present);
}

static void test_agent_that_does_not_answer(void **state)
{
    (void)state;
    ask(AGENT_BEFORE, 30 * CLOCK_MSEC);
    turn_until_answered();
    assert_int_equal(f.reply.rc, -ETIMEDOUT);
    ask(AGENT_BEFORE, 60 * CLOCK_SECOND);
    ask(AGENT_AFTER, 60 * CLOCK_SECOND); /* instead of the other, which hears of it */
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.reply.rc, -ECANCELED);
    agent_cancel(&f.agent);
    assert_int_equal(f.calls, 2);
    agent_cancel(&f.agent);
    assert_int_equal(f.calls, 2);
}

static void test_agent_that_talks_nonsense(void **state)
{
    (void)state;
    static char flood[4096];
    memset(flood, 'x', sizeof(flood));
    const struct {
        const char *bytes;
        size_t len;
    } table[] = { { flood, sizeof(flood) },
                  { "ok restored=1\nok restored=2\n", 28 },
                  { "ok restored=1\0\n", 15 },
                  { "\n", 1 } };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        ask(AGENT_AFTER, 60 * CLOCK_SECOND);
        assert_int_equal(send(f.theirs, table[i].bytes, table[i].len, 0), table[i].len);
        turn_until_answered();
        assert_int_equal(f.reply.rc, -EPROTO);
        assert_true(f.reply.present);
        assert_int_equal(f.reply.restored, 0);
    }
}

/* ------------------------------------------------------------------------------------- both of them */

static void converse(struct guest *guest, enum agent_verb verb)
{
    pthread_t thread;
    ask(verb, 20 * CLOCK_SECOND);
    served_fd = TAKE_FD(f.theirs);
    assert_int_equal(pthread_create(&thread, NULL, serve_fd, guest), 0);
    turn_until_answered();
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(f.reply.rc, 0);
    assert_true(f.reply.present);
}

static void test_both_sides_agree(void **state)
{
    (void)state;
    struct guest *guest = fake_guest();
    const char *why;
    assert_int_equal(guest_config_parse(&guest->config, "page-cache drop\nfreeze batch\n", &why),
                     0);
    put("cgroup/batch/cgroup.freeze", "0\n");
    put("cgroup/batch/cgroup.events", "frozen 1\n");
    converse(guest, AGENT_HELLO);
    assert_int_equal(f.reply.protocol, GUEST_PROTOCOL);
    assert_string_equal(f.reply.version, GODWIT_VERSION);
    assert_int_equal(f.reply.page_cache, 1);
    assert_int_equal(f.reply.slow, 1);
    converse(guest, AGENT_BEFORE);
    assert_int_equal(f.reply.slowed, 1);
    assert_int_equal(get("cgroup/batch/cgroup.freeze")[0], '1');
    converse(guest, AGENT_AFTER);
    assert_int_equal(f.reply.restored, 1);
    assert_int_equal(get("cgroup/batch/cgroup.freeze")[0], '0');
}

/* ----------------------------------------------------------------------------------- self-migration */

/* A monitor by script: each connection expects a line and answers with some, then ends. */
struct script {
    const char *const (*steps)[2]; /* what is asked; what is answered */
    unsigned count, at;
    pthread_t thread[8];
    int fd[8];
};

static void *play(void *arg)
{
    struct script *s = arg;
    unsigned step = s->at - 1;
    char line[GUEST_LINE_MAX + 1] = "";
    size_t len = 0;
    while (len < sizeof(line) - 1 && recv(s->fd[step], line + len, 1, 0) == 1 &&
           line[len++] != '\n')
        ;
    line[len] = '\0';
    if (strcmp(line, s->steps[step][0]) == 0)
        (void)send(s->fd[step], s->steps[step][1], strlen(s->steps[step][1]), MSG_NOSIGNAL);
    (void)close(s->fd[step]);
    return NULL;
}

static int dial_script(void *ctx)
{
    struct script *s = ctx;
    int pair[2];
    for (unsigned i = 0; i < s->at; i++)
        if (s->thread[i])
            (void)pthread_join(s->thread[i], NULL), s->thread[i] = 0;
    if (s->at == s->count)
        return -1;
    if (!s->steps[s->at][0]) { /* nobody there, this time */
        s->at++;
        return -1;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
        return -1;
    s->fd[s->at++] = pair[1];
    return pthread_create(&s->thread[s->at - 1], NULL, play, s) == 0 ? pair[0] : -1;
}

static void follow(const char *const (*steps)[2], unsigned count, int status, const char *said)
{
    struct script script = { .steps = steps, .count = count };
    char text[600];
    assert_int_equal(guest_follow_move(dial_script, &script, "0123456789abcdef", "host2:7000", 300,
                                       text, sizeof(text)),
                     status);
    (void)dial_script(&script);
    if (!strstr(text, said))
        fail_msg("said '%s', not '%s'", text, said);
}

static void test_self_migration(void **state)
{
    (void)state;
    static const char ask[] = "migrate 0123456789abcdef host2:7000\n";
    static const char status[] = "status 0123456789abcdef\n";
#define FOLLOW(status, said, ...)                              \
    do {                                                       \
        static const char *const steps[][2] = { __VA_ARGS__ }; \
        follow(steps, ARRAY_LEN(steps), status, said);         \
    } while (0)
    FOLLOW(0, "runs on host2", { ask, "accepted\n" }, { status, "moved host2\n" });
    FOLLOW(0, "runs on host2", { ask, "accepted\n" }, { NULL, NULL }, { status, "moving\n" },
           { status, "moved host2\n" });
    FOLLOW(1, "refused not allowed", { ask, "refused not allowed\n" });
    FOLLOW(1, "failed no route", { ask, "accepted\nfailed no route\n" });
    FOLLOW(1, "failed late", { ask, "accepted\n" }, { status, "failed late\n" });
    FOLLOW(3, "does not know", { ask, "" }, { status, "unknown\n" });
    FOLLOW(3, "may have happened", { ask, "accepted\n" }, { NULL, NULL });
    FOLLOW(1, "no monitor answers", { NULL, NULL });
    FOLLOW(3, "may have happened", { ask, "HTTP/1.1 200\n" });
#undef FOLLOW
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_monitor, teardown_monitor)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_configuration),
        TEST(test_strict_requests),
        TEST(test_freezes_and_thaws),
        TEST(test_idles_a_named_process),
        TEST(test_gives_up_by_itself),
        TEST(test_program),
        TEST(test_answers_are_parsed_strictly),
        TEST(test_no_agent),
        TEST(test_agent_that_does_not_answer),
        TEST(test_agent_that_talks_nonsense),
        TEST(test_both_sides_agree),
        TEST(test_self_migration),
    };
    return cmocka_run_group_tests_name("agent", tests, NULL, NULL);
}
