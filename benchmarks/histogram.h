/* How long things took: counted by the microsecond up to 4 s, so that percentiles are exact. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { BUCKETS = 4000000 };

struct histogram {
    uint64_t count, max;
    double sum;
    uint32_t buckets[BUCKETS];
};

static void histogram_add(struct histogram *h, uint64_t ns) {
    uint64_t us = ns / 1000;
    h->count++;
    h->sum += us;
    if (us > h->max)
        h->max = us;
    h->buckets[us < BUCKETS ? us : BUCKETS - 1]++;
}

static uint64_t histogram_at(const struct histogram *h, double part) {
    uint64_t wanted = (uint64_t)(h->count * part), seen = 0;
    for (uint64_t us = 0; us < BUCKETS && us < h->max; us++) {
        seen += h->buckets[us];
        if (seen > wanted)
            return us;
    }
    return h->max;
}

static void histogram_print(const struct histogram *h, const char *name) {
    printf("\"%s\": {\"count\": %lu, \"mean\": %.1f, \"p50\": %lu, \"p99\": %lu, "
           "\"p999\": %lu, \"max\": %lu}",
           name, h->count, h->count ? h->sum / h->count : 0.0, histogram_at(h, 0.5),
           histogram_at(h, 0.99), histogram_at(h, 0.999), h->max);
}
