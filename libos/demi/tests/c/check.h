/* What the test programs share: a check that says where it failed, and the ends of a connection. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <arpa/inet.h>
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(fact)                                                                                                    \
    do {                                                                                                               \
        if (!(fact)) {                                                                                                 \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #fact);                                         \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* That a call gives this errno; 0 for success. */
#define GIVES(expected, call)                                                                                          \
    do {                                                                                                               \
        int given_ = (call);                                                                                           \
        if (given_ != (expected)) {                                                                                    \
            fprintf(stderr, "%s:%d: %s gives %d (%s), not %d\n", __FILE__, __LINE__, #call, given_, strerror(given_),  \
                    (int)(expected));                                                                                  \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Longer than anything takes, unless it is stuck. */
static const struct timespec LIMIT = {20, 0};

static inline struct sockaddr_in local_address(unsigned port) {
    const char *ip = getenv("TEST_ADDRESS");
    struct sockaddr_in at;
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_port = htons((uint16_t)port);
    CHECK(inet_pton(AF_INET, ip != NULL ? ip : "127.0.0.1", &at.sin_addr) == 1);
    return at;
}

/* Waits for an operation, which ends as it is to. */
static inline demi_qresult_t ended(demi_qtoken_t qt, demi_opcode_t opcode) {
    demi_qresult_t result;
    memset(&result, 0xee, sizeof result);
    GIVES(0, demi_wait(&result, qt, &LIMIT));
    if (result.qr_opcode != opcode) {
        fprintf(stderr, "opcode %d, qr_ret %ld\n", (int)result.qr_opcode, (long)result.qr_ret);
    }
    CHECK(result.qr_opcode == opcode);
    CHECK(result.qr_qt == qt);
    CHECK(opcode == DEMI_OPC_FAILED || result.qr_ret == 0);
    return result;
}

/* A listener at a free port, which is written to *at. */
static inline int listener(struct sockaddr_in *at) {
    int qd = -1;
    socklen_t size = sizeof *at;
    *at = local_address(0);
    GIVES(0, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    GIVES(0, demi_bind(qd, (const struct sockaddr *)at, sizeof *at));
    GIVES(0, demi_listen(qd, 16));
    GIVES(0, demi_getsockname(qd, (struct sockaddr *)at, &size));
    CHECK(size == sizeof *at && at->sin_port != 0);
    return qd;
}

static inline int connected(const struct sockaddr_in *to) {
    int qd = -1;
    demi_qtoken_t qt = 0;
    GIVES(0, demi_socket(&qd, AF_INET, SOCK_STREAM, IPPROTO_TCP));
    GIVES(0, demi_connect(&qt, qd, (const struct sockaddr *)to, sizeof *to));
    ended(qt, DEMI_OPC_CONNECT);
    return qd;
}

/* Both ends of a connection of this thread with itself. */
static inline void pair(int *client, int *server) {
    struct sockaddr_in at;
    int listens = listener(&at);
    demi_qtoken_t accept = 0;
    demi_qresult_t accepted;
    GIVES(0, demi_accept(&accept, listens));
    *client = connected(&at);
    accepted = ended(accept, DEMI_OPC_ACCEPT);
    CHECK(accepted.qr_qd == listens);
    CHECK(accepted.qr_value.ares.addr.sin_family == AF_INET);
    *server = accepted.qr_value.ares.qd;
    GIVES(0, demi_close(listens));
}

/* An array with these bytes. */
static inline demi_sgarray_t message(const void *bytes, size_t len) {
    demi_sgarray_t sga = demi_sgaalloc(len);
    CHECK(sga.sga_buf != NULL && sga.sga_numsegs == 1 && sga.sga_segs[0].sgaseg_len == len);
    memcpy(sga.sga_segs[0].sgaseg_buf, bytes, len);
    return sga;
}

/* Pushes bytes, and waits until that is complete. The buffer is freed before. */
static inline void push_bytes(int qd, const void *bytes, size_t len) {
    demi_qtoken_t qt = 0;
    demi_sgarray_t sga = message(bytes, len);
    GIVES(0, demi_push(&qt, qd, &sga));
    GIVES(0, demi_sgafree(&sga));
    ended(qt, DEMI_OPC_PUSH);
}

/* Pops until len bytes have come. */
static inline void pop_bytes(int qd, void *into, size_t len) {
    size_t have = 0;
    while (have < len) {
        demi_qtoken_t qt = 0;
        demi_qresult_t popped;
        uint32_t more;
        GIVES(0, demi_pop(&qt, qd));
        popped = ended(qt, DEMI_OPC_POP);
        CHECK(popped.qr_qd == qd && popped.qr_value.sga.sga_numsegs == 1);
        more = popped.qr_value.sga.sga_segs[0].sgaseg_len;
        CHECK(more > 0 && have + more <= len);
        memcpy((char *)into + have, popped.qr_value.sga.sga_segs[0].sgaseg_buf, more);
        have += more;
        GIVES(0, demi_sgafree(&popped.qr_value.sga));
    }
}

/* Pops the end of a stream: an array of no bytes, which is freed like any other. */
static inline void pop_end(int qd) {
    demi_qtoken_t qt = 0;
    demi_qresult_t popped;
    GIVES(0, demi_pop(&qt, qd));
    popped = ended(qt, DEMI_OPC_POP);
    CHECK(popped.qr_value.sga.sga_numsegs == 1 && popped.qr_value.sga.sga_segs[0].sgaseg_len == 0);
    GIVES(0, demi_sgafree(&popped.qr_value.sga));
}

static inline void init(void) {
    const struct demi_args args = {0, NULL, NULL};
    GIVES(0, demi_init(&args));
}

#endif
