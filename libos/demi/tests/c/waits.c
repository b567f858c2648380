/* The four waits, and their timeouts; memory queues; pushes of the heap's memory; cancelling. */
#include "check.h"

static double now(void) {
    struct timespec at;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &at) == 0);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void timeouts(void) {
    const struct timespec NONE = {0, 0}, SHORT = {0, 50000000};
    demi_qresult_t results[3], result;
    demi_qtoken_t pops[3];
    int qds[3], i, place = -1, count = -1;
    double start;
    for (i = 0; i < 3; i++) {
        GIVES(0, demi_queue(&qds[i]));
        GIVES(0, demi_pop(&pops[i], qds[i]));
    }
    start = now();
    GIVES(ETIMEDOUT, demi_wait(&result, pops[0], &NONE));
    GIVES(ETIMEDOUT, demi_wait_any(&result, &place, pops, 3, &NONE));
    GIVES(ETIMEDOUT, demi_wait_all(results, pops, 3, &NONE));
    GIVES(ETIMEDOUT, demi_wait_next_n(results, 3, &count, &NONE));
    CHECK(count == 0 && now() - start < 1);
    start = now();
    GIVES(ETIMEDOUT, demi_wait_any(&result, &place, pops, 3, &SHORT));
    CHECK(now() - start >= 0.05 && now() - start < 5);

    /* One of three: the others stay valid. */
    push_bytes(qds[1], "one", 3);
    GIVES(0, demi_wait_any(&result, &place, pops, 3, &LIMIT));
    CHECK(place == 1 && result.qr_qt == pops[1] && result.qr_qd == qds[1]);
    GIVES(0, demi_sgafree(&result.qr_value.sga));
    GIVES(ESTALE, demi_wait_any(&result, &place, pops, 3, &NONE));

    /* What is there when the time is over is told, and not lost. */
    GIVES(0, demi_pop(&pops[1], qds[1]));
    push_bytes(qds[2], "two", 3);
    count = -1;
    GIVES(ETIMEDOUT, demi_wait_next_n(results, 3, &count, &SHORT));
    CHECK(count == 1 && results[0].qr_qt == pops[2] && results[0].qr_opcode == DEMI_OPC_POP);
    GIVES(0, demi_sgafree(&results[0].qr_value.sga));

    /* All of them, in the order of the list; when one is missing, none is redeemed. */
    GIVES(0, demi_pop(&pops[2], qds[2]));
    push_bytes(qds[2], "2", 1);
    push_bytes(qds[0], "0", 1);
    GIVES(ETIMEDOUT, demi_wait_all(results, pops, 3, &SHORT));
    push_bytes(qds[1], "1", 1);
    GIVES(0, demi_wait_all(results, pops, 3, &LIMIT));
    for (i = 0; i < 3; i++) {
        CHECK(results[i].qr_qt == pops[i]);
        CHECK(*(char *)results[i].qr_value.sga.sga_segs[0].sgaseg_buf == '0' + i);
        GIVES(0, demi_sgafree(&results[i].qr_value.sga));
        GIVES(0, demi_close(qds[i]));
    }
}

/* Many operations, each told once, though some are waited for by name in between. */
static void next_n(void) {
    enum { COUNT = 2000 };
    static demi_qtoken_t pops[COUNT];
    static char seen[COUNT];
    demi_qresult_t results[64], result;
    int qd = -1, i, left = COUNT, pushes = 0;
    GIVES(0, demi_queue(&qd));
    for (i = 0; i < COUNT; i++) {
        GIVES(0, demi_pop(&pops[i], qd));
    }
    for (i = 0; i < COUNT; i++) {
        demi_qtoken_t qt = 0;
        demi_sgarray_t sga = message(&i, sizeof i);
        GIVES(0, demi_push(&qt, qd, &sga));
        GIVES(0, demi_sgafree(&sga));
        if (i % 3 == 0) {
            ended(qt, DEMI_OPC_PUSH);
            pushes++;
        }
    }
    result = ended(pops[COUNT / 2], DEMI_OPC_POP);
    CHECK(memcmp(result.qr_value.sga.sga_segs[0].sgaseg_buf, &(int){COUNT / 2}, sizeof(int)) == 0);
    seen[COUNT / 2] = 1;
    GIVES(0, demi_sgafree(&result.qr_value.sga));
    left--;
    while (left > 0 || pushes < COUNT) {
        const struct timespec NONE = {0, 0};
        int count = 0, errno_given = demi_wait_next_n(results, 64, &count, &NONE);
        CHECK(errno_given == (count == 64 ? 0 : ETIMEDOUT) && count > 0);
        for (i = 0; i < count; i++) {
            if (results[i].qr_opcode == DEMI_OPC_POP) {
                int element;
                memcpy(&element, results[i].qr_value.sga.sga_segs[0].sgaseg_buf, sizeof element);
                CHECK(element >= 0 && element < COUNT && !seen[element] && pops[element] == results[i].qr_qt);
                seen[element] = 1;
                left--;
                GIVES(0, demi_sgafree(&results[i].qr_value.sga));
            } else {
                CHECK(results[i].qr_opcode == DEMI_OPC_PUSH);
                pushes++;
            }
        }
    }
    CHECK(left == 0 && pushes == COUNT);
    GIVES(0, demi_close(qd));
}

/* Any part of the heap's memory, in one piece or several; it is freed before it has arrived. */
static void heap_memory(void) {
    demi_sgaseg_t segs[3];
    demi_sgarray_t sga;
    demi_qtoken_t qt = 0;
    int client, server;
    char *memory = demi_malloc(1000), back[9];
    CHECK(memory != NULL);
    memcpy(memory + 100, "abcdefghi", 9);
    pair(&client, &server);
    memset(&sga, 0, sizeof sga);
    sga.sga_numsegs = 1;
    sga.sga_segs[0].sgaseg_buf = memory + 103;
    sga.sga_segs[0].sgaseg_len = 3;
    GIVES(0, demi_push(&qt, client, &sga));
    ended(qt, DEMI_OPC_PUSH);
    pop_bytes(server, back, 3);
    CHECK(memcmp(back, "def", 3) == 0);
    segs[0].sgaseg_buf = memory + 106;
    segs[1].sgaseg_buf = memory + 100;
    segs[2].sgaseg_buf = memory + 103;
    segs[0].sgaseg_len = segs[1].sgaseg_len = segs[2].sgaseg_len = 3;
    GIVES(0, demi_pushv(&qt, client, segs, 3));
    GIVES(0, demi_free(memory));
    ended(qt, DEMI_OPC_PUSH);
    pop_bytes(server, back, 9);
    CHECK(memcmp(back, "ghiabcdef", 9) == 0);
    GIVES(0, demi_close(client));
    GIVES(0, demi_close(server));
}

/* An element that cannot be laid into one segment keeps nothing else from being told, and is told itself when it can be. */
static void too_long(void) {
    enum { SEGMENTS = 100, LEN = 4 << 20 };
    const struct timespec NONE = {0, 0};
    static demi_sgaseg_t segs[SEGMENTS];
    demi_qresult_t results[4];
    demi_qtoken_t push = 0, long_one = 0, short_one = 0;
    int queue = -1, other = -1, count = -1, i, told = 0;
    char *memory = demi_malloc(LEN);
    CHECK(memory != NULL);
    for (i = 0; i < SEGMENTS; i++) {
        segs[i].sgaseg_buf = memory;
        segs[i].sgaseg_len = LEN;
    }
    GIVES(0, demi_queue(&queue));
    GIVES(0, demi_queue(&other));
    GIVES(0, demi_pushv(&push, queue, segs, SEGMENTS));
    GIVES(0, demi_pop(&long_one, queue));
    GIVES(0, demi_pop(&short_one, other));
    push_bytes(other, "short", 5);
    for (i = 0; i < 10 && !told; i++) {
        int errno_given = demi_wait_next_n(results, 4, &count, &NONE);
        int at;
        CHECK(errno_given == 0 || errno_given == ETIMEDOUT || errno_given == ENOBUFS);
        for (at = 0; at < count; at++) {
            CHECK(results[at].qr_qt != long_one || results[at].qr_opcode == DEMI_OPC_FAILED);
            if (results[at].qr_qt == short_one) {
                told = 1;
                GIVES(0, demi_sgafree(&results[at].qr_value.sga));
            }
        }
    }
    CHECK(told);
    GIVES(0, demi_close(queue));
    GIVES(0, demi_close(other));
    GIVES(0, demi_free(memory));
}

/* An element of two segments, and all other memory of the heap, so that it cannot be laid into one. */
enum { HALF = 6 << 20, HOGS_MAX = 4096 };

struct shortage {
    int queue, hogs;
    demi_qtoken_t pop;
    void *hog[HOGS_MAX];
};

static void begin_shortage(struct shortage *s) {
    demi_sgaseg_t segs[2];
    demi_qtoken_t push = 0;
    size_t size;
    int i;
    GIVES(0, demi_queue(&s->queue));
    for (i = 0; i < 2; i++) {
        segs[i].sgaseg_buf = demi_malloc(HALF);
        segs[i].sgaseg_len = HALF;
        CHECK(segs[i].sgaseg_buf != NULL);
        memset(segs[i].sgaseg_buf, 'a' + i, HALF);
    }
    GIVES(0, demi_pushv(&push, s->queue, segs, 2));
    ended(push, DEMI_OPC_PUSH);
    for (i = 0; i < 2; i++) {
        GIVES(0, demi_free(segs[i].sgaseg_buf));
    }
    s->hogs = 0;
    for (size = 16 << 20; size >= 256 << 10; size /= 2) {
        void *hog;
        while (s->hogs < HOGS_MAX && (hog = demi_malloc(size)) != NULL) {
            s->hog[s->hogs++] = hog;
        }
    }
    GIVES(0, demi_pop(&s->pop, s->queue));
}

static void end_shortage(struct shortage *s) {
    while (s->hogs > 0) {
        GIVES(0, demi_free(s->hog[--s->hogs]));
    }
}

/* It has come after all, whole. */
static void check_long(const demi_qresult_t *result, const struct shortage *s) {
    const char *bytes = result->qr_value.sga.sga_segs[0].sgaseg_buf;
    demi_sgarray_t sga = result->qr_value.sga;
    int i;
    CHECK(result->qr_opcode == DEMI_OPC_POP && result->qr_qt == s->pop);
    CHECK(result->qr_value.sga.sga_segs[0].sgaseg_len == 2 * HALF);
    for (i = 0; i < 2 * HALF; i++) {
        CHECK(bytes[i] == (i < HALF ? 'a' : 'b'));
    }
    GIVES(0, demi_sgafree(&sga));
    GIVES(0, demi_close(s->queue));
}

/* While there is no memory for one result, others are told, wakes are, and nothing is lost. */
static void short_of_memory(void) {
    const struct timespec NONE = {0, 0};
    static struct shortage s;
    demi_qresult_t results[2], result;
    demi_qtoken_t pops[2], push = 0;
    demi_sgarray_t small = message("small", 5);
    uint64_t waker = 0;
    int other = -1, place = -1, count = -1, round;
    GIVES(0, demi_waker(&waker));
    GIVES(0, demi_queue(&other));
    for (round = 0; round < 2; round++) {
        begin_shortage(&s);
        GIVES(0, demi_pop(&pops[1], other));
        pops[0] = s.pop;
        GIVES(ENOBUFS, demi_wait_any(&result, &place, pops, 2, &LIMIT));
        if (round == 0) {
            /* A wake is one, though there is something to be said of memory. */
            GIVES(0, demi_wake(waker));
            GIVES(EINTR, demi_wait_next_n(results, 2, &count, &LIMIT));
            CHECK(count == 0);
            GIVES(ENOBUFS, demi_wait_next_n(results, 2, &count, &LIMIT));
            GIVES(0, demi_wake(waker));
            GIVES(EINTR, demi_wait_any(&result, &place, pops, 2, &LIMIT));
            /* The other of the list is told. */
            GIVES(0, demi_push(&push, other, &small));
            ended(push, DEMI_OPC_PUSH);
            GIVES(0, demi_wait_any(&result, &place, pops, 2, &LIMIT));
            CHECK(place == 1 && result.qr_qt == pops[1] && result.qr_value.sga.sga_segs[0].sgaseg_len == 5);
            GIVES(0, demi_sgafree(&result.qr_value.sga));
            GIVES(ENOBUFS, demi_wait(&result, s.pop, &NONE));
            end_shortage(&s);
            GIVES(0, demi_wait_any(&result, &place, pops, 1, &LIMIT));
            CHECK(place == 0);
            check_long(&result, &s);
        } else {
            /* All, or none. */
            GIVES(0, demi_push(&push, other, &small));
            ended(push, DEMI_OPC_PUSH);
            GIVES(ENOBUFS, demi_wait_all(results, pops, 2, &LIMIT));
            GIVES(ENOBUFS, demi_wait_all(results, pops, 2, &NONE));
            end_shortage(&s);
            GIVES(0, demi_wait_all(results, pops, 2, &LIMIT));
            CHECK(results[1].qr_opcode == DEMI_OPC_POP && results[1].qr_qt == pops[1]);
            GIVES(0, demi_sgafree(&results[1].qr_value.sga));
            check_long(&results[0], &s);
        }
    }
    GIVES(0, demi_sgafree(&small));
    GIVES(0, demi_close(other));
}

/* Of several segments, and longer than what is left beside them: there will never be memory for that. (The heap has 64 MiB,
 * of which 52 are for programs.) */
static void longer_than_the_rest(void) {
    enum { LEN = 14 << 20 };
    const struct timespec NONE = {0, 0};
    demi_sgaseg_t segs[2];
    demi_qtoken_t push = 0, pop = 0;
    demi_qresult_t result;
    int qd = -1, i;
    GIVES(0, demi_queue(&qd));
    for (i = 0; i < 2; i++) {
        segs[i].sgaseg_buf = demi_malloc(LEN);
        segs[i].sgaseg_len = LEN;
        CHECK(segs[i].sgaseg_buf != NULL);
    }
    GIVES(0, demi_pushv(&push, qd, segs, 2));
    ended(push, DEMI_OPC_PUSH);
    for (i = 0; i < 2; i++) {
        GIVES(0, demi_free(segs[i].sgaseg_buf));
    }
    GIVES(0, demi_pop(&pop, qd));
    GIVES(0, demi_wait(&result, pop, &NONE));
    CHECK(result.qr_opcode == DEMI_OPC_FAILED && result.qr_ret == EMSGSIZE);
    GIVES(0, demi_close(qd));
}

static void cancelled(void) {
    int client, server;
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    char back[4];
    pair(&client, &server);
    GIVES(0, demi_pop(&qt, server));
    GIVES(0, demi_cancel(qt));
    result = ended(qt, DEMI_OPC_FAILED);
    CHECK(result.qr_ret == ECANCELED && result.qr_qd == server);
    push_bytes(client, "next", 4);
    pop_bytes(server, back, 4);
    CHECK(memcmp(back, "next", 4) == 0);
    GIVES(0, demi_close(client));
    GIVES(0, demi_close(server));
}

/* Nobody listens there. */
static void refused(void) {
    struct sockaddr_in at;
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    int qd = listener(&at);
    GIVES(0, demi_close(qd));
    GIVES(0, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    GIVES(0, demi_connect(&qt, qd, (struct sockaddr *)&at, sizeof at));
    result = ended(qt, DEMI_OPC_FAILED);
    CHECK(result.qr_ret == ECONNREFUSED);
    GIVES(0, demi_close(qd));
}

int main(void) {
    init();
    timeouts();
    next_n();
    heap_memory();
    too_long();
    short_of_memory();
    longer_than_the_rest();
    cancelled();
    refused();
    return 0;
}
