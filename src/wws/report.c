#include "wws/report.h"
#include "base/gpa.h"
#include "cost/show.h"

#include <inttypes.h>
#include <string.h>

#define CURVE_POINTS_MAX 256
#define STATE_BYTES_FIXED 4096 /* interrupt controllers, clock, devices */
#define STATE_BYTES_VCPU 8192  /* registers, FPU, MSRs, local APIC */

static json_t *number(uint64_t n)
{
    return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *memory_json(const struct recorder_memory *memory)
{
    return json_pack("{s:i, s:o, s:o, s:o, s:o}", "page_bytes", (int)PAGE_BYTES, "pages",
                     number(memory->pages), "touched_pages", number(memory->touched_pages),
                     "zero_pages", number(memory->zero_pages), "data_pages",
                     number(memory->touched_pages - memory->zero_pages));
}

static json_t *rate_json(const struct wws *wws)
{
    json_t *list = json_array();
    uint64_t at_ns = 0;
    for (uint32_t i = 0; i < wws->intervals; i++) {
        at_ns += wws->length_ns[i];
        (void)json_array_append_new(list, json_pack("{s:o, s:o, s:o}", "until_ns", number(at_ns),
                                                    "length_ns", number(wws->length_ns[i]), "pages",
                                                    number(wws->written[i])));
    }
    return list;
}

/* Every window up to some, then ever sparser: what is left out lies almost on the line. */
static json_t *unique_json(const struct wws_curve *curve)
{
    json_t *list = json_array();
    for (uint32_t w = 1; w <= curve->intervals;) {
        (void)json_array_append_new(list,
                                    json_pack("{s:o, s:o}", "window_ns",
                                              number(w * curve->interval_ns), "pages",
                                              number((uint64_t)(curve->unique[w - 1] + 0.5))));
        uint32_t step = 1 + w / (CURVE_POINTS_MAX / 8);
        w = w < curve->intervals && w + step > curve->intervals ? curve->intervals : w + step;
    }
    return list;
}

static json_t *times_json(const struct wws_curve *curve)
{
    json_t *list = json_array();
    for (uint32_t k = 0; k <= curve->intervals; k++)
        if (curve->times[k])
            (void)json_array_append_new(list, json_pack("{s:o, s:o}", "intervals", number(k),
                                                        "pages", number(curve->times[k])));
    return list;
}

static json_t *disturbance_json(const struct report *report, uint64_t duration_ns)
{
    const struct recorder_cost *cost = &report->recorder->cost;
    double ran_ns = (double)report->vcpu_cpu_ns,
           lost_ns = (double)(cost->faults * RECORDER_FAULT_NS);
    double share = ran_ns > 0 ? MIN(lost_ns / ran_ns, 1.0) : 0;
    double host = duration_ns ? (double)cost->cpu_ns / (double)duration_ns : 0;
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:f, s:o, s:i, s:o, s:f, s:s}", "samples", number(cost->samples),
        "sample_ns", number(cost->samples ? cost->sample_ns / cost->samples : 0), "sample_max_ns",
        number(cost->sample_max_ns), "cpu_ns", number(cost->cpu_ns), "host_cpu_share", host,
        "faults_at_most", number(cost->faults), "fault_ns", RECORDER_FAULT_NS, "vcpu_cpu_ns",
        number(report->vcpu_cpu_ns), "guest_share", share, "how",
        "times are measured; guest_share, the part of vcpu_cpu_ns that was lost to faults, is "
        "estimated as faults_at_most times fault_ns, an assumed cost");
}

static json_t *prediction_json(uint64_t rate, enum predict_mode mode, const struct predict *p)
{
    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:s, s:b, s:b, s:b}", "bytes_per_s",
                     number(rate), "mode", predict_mode_name(mode), "total_ns", number(p->total_ns),
                     "downtime_ns", number(p->downtime_ns), "bytes", number(p->bytes), "rounds",
                     number(p->rounds), "last_pages", number(p->last_pages), "why",
                     policy_why_name(p->why), "post_copy", p->post_copy, "slowed", p->slowed,
                     "exceeds", p->exceeds);
}

static json_t *predictions_json(const struct report *report, const struct wws_curve *curve)
{
    json_t *list = json_array();
    struct predict_guest guest = {
        .curve = curve,
        .pages = report->memory.pages,
        .data_pages = report->memory.touched_pages - report->memory.zero_pages,
        .state_bytes = STATE_BYTES_FIXED + report->vcpus * STATE_BYTES_VCPU,
    };
    for (unsigned i = 0; i < report->rate_count; i++)
        for (enum predict_mode mode = 0; mode < PREDICT_MODE_MAX; mode++) {
            struct predict_link link = { .bytes_per_s = report->rates[i],
                                         .rtt_ns = report->rtt_ns };
            struct predict p = predict(&guest, &link, mode, &report->limits);
            (void)json_array_append_new(list, prediction_json(report->rates[i], mode, &p));
        }
    return list;
}

json_t *report_json(const struct report *report)
{
    const struct recorder *recorder = report->recorder;
    struct wws_curve curve;
    if (wws_curve(&recorder->wws, &curve))
        return NULL;
    uint64_t duration_ns = recorder->last_ns - recorder->began_ns;
    json_t *json = json_pack(
        "{s:i, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
        "version", 1, "name", report->name, "ended", report->ended, "interval_ns",
        number(report->interval_ns), "mean_interval_ns", number(curve.interval_ns), "intervals",
        number(recorder->wws.intervals), "asked_intervals", number(recorder->wws.limit),
        "duration_ns", number(duration_ns), "vcpus", number(report->vcpus), "memory",
        memory_json(&report->memory), "dirty_rate", rate_json(&recorder->wws), "unique",
        unique_json(&curve), "times_written", times_json(&curve), "disturbance",
        disturbance_json(report, duration_ns), "rtt_ns", number(report->rtt_ns), "max_downtime_ns",
        number(report->limits.max_downtime_ns), "predictions", predictions_json(report, &curve));
    wws_curve_fini(&curve);
    return json;
}

/* ----------------------------------------------------------------------------------------- as a page */

static uint64_t get(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 ? (uint64_t)n : 0;
}

static const char *text(const json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    return value ? value : "";
}

static struct show pages_text(uint64_t pages)
{
    return show_bytes(pages * PAGE_BYTES);
}

/* Pages by how often they were written, in classes a person can read. */
static void print_times(const json_t *report, FILE *out)
{
    static const struct {
        const char *label;
        double from, to; /* share of the intervals */
    } class[] = { { "in one in ten or fewer", 0, 0.1 },
                  { "in up to half", 0.1, 0.5 },
                  { "in more than half", 0.5, 0.9 },
                  { "in nearly every one", 0.9, 1 } };
    const json_t *times = json_object_get(report, "times_written");
    double n = (double)MAX(get(report, "intervals"), UINT64_C(1));
    uint64_t sum[ARRAY_LEN(class)] = { 0 }, all = get(json_object_get(report, "memory"), "pages");

    for (size_t i = 0; i < json_array_size(times); i++) {
        const json_t *bin = json_array_get(times, i);
        double share = (double)get(bin, "intervals") / n;
        for (size_t c = 0; c < ARRAY_LEN(class); c++)
            if (share > class[c].from && share <= class[c].to)
                sum[c] += get(bin, "pages");
    }
    (void)fprintf(out, "\npages written, by the share of intervals they were written in\n");
    for (size_t c = 0; c < ARRAY_LEN(class); c++)
        (void)fprintf(out, "  %-24s %10s  %s\n", class[c].label, pages_text(sum[c]).text,
                      show_percent(sum[c], all).text);
}

static void print_predictions(const json_t *report, FILE *out)
{
    const json_t *list = json_object_get(report, "predictions");
    uint64_t rate = 0;
    (void)fprintf(out, "\n%-14s%-12s%12s%12s%12s%8s\n", "link", "mode", "total", "downtime",
                  "bytes", "rounds");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *p = json_array_get(list, i);
        char link[32] = "";
        if (get(p, "bytes_per_s") != rate) {
            rate = get(p, "bytes_per_s");
            (void)snprintf(link, sizeof(link), "%" PRIu64 " Mbit/s", rate / 125000);
        }
        (void)fprintf(out, "%-14s%-12s%12s%12s%12s%8" PRIu64 "%s\n", link, text(p, "mode"),
                      show_duration(get(p, "total_ns")).text,
                      show_duration(get(p, "downtime_ns")).text, show_bytes(get(p, "bytes")).text,
                      get(p, "rounds"),
                      json_is_true(json_object_get(p, "exceeds")) ? "  too long" : "");
    }
    (void)fprintf(out, "'too long': more downtime than the %s asked for\n",
                  show_duration(get(report, "max_downtime_ns")).text);
}

void report_text(const json_t *report, FILE *out)
{
    const json_t *memory = json_object_get(report, "memory"),
                 *unique = json_object_get(report, "unique"),
                 *disturbance = json_object_get(report, "disturbance");
    size_t points = json_array_size(unique);
    uint64_t first = get(json_array_get(unique, 0), "pages");
    uint64_t last = points ? get(json_array_get(unique, points - 1), "pages") : 0;
    char name[128];

    show_clean(name, sizeof(name), text(report, "name"));
    (void)fprintf(out, "%s: %" PRIu64 " intervals of %s", name, get(report, "intervals"),
                  show_duration(get(report, "mean_interval_ns")).text);
    if (strcmp(text(report, "ended"), "complete") != 0) {
        char why[128];
        show_clean(why, sizeof(why), text(report, "ended"));
        (void)fprintf(out, ", cut short: %s", why);
    }
    (void)fprintf(out, "\nmemory %s, touched %s, of that about %s zero\n",
                  pages_text(get(memory, "pages")).text,
                  pages_text(get(memory, "touched_pages")).text,
                  pages_text(get(memory, "zero_pages")).text);
    (void)fprintf(out, "written: %s in an interval in the mean, %s in the whole time\n",
                  pages_text(first).text, pages_text(last).text);
    print_times(report, out);
    print_predictions(report, out);
    (void)fprintf(out,
                  "\ndisturbance: about %.2f %% of the time the guest ran (at most %" PRIu64
                  " faults, assumed %s each);\n"
                  "a sample took %s, at most %s; %.2f %% of one host processor\n",
                  json_number_value(json_object_get(disturbance, "guest_share")) * 100,
                  get(disturbance, "faults_at_most"),
                  show_duration(get(disturbance, "fault_ns")).text,
                  show_duration(get(disturbance, "sample_ns")).text,
                  show_duration(get(disturbance, "sample_max_ns")).text,
                  json_number_value(json_object_get(disturbance, "host_cpu_share")) * 100);
}
