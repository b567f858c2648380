/* An echo server and its client, each a thread with a library OS of its own. What was popped is pushed back as it is. */
#include "check.h"

enum { ROUNDS = 200, CONNECTIONS = 3 };

static const size_t SIZES[] = {1, 64, 1400, 4096, 70000};

static struct sockaddr_in server_at;
static pthread_barrier_t ready;

static void serve_one(int qd) {
    for (;;) {
        demi_qtoken_t qt = 0;
        demi_qresult_t popped;
        GIVES(0, demi_pop(&qt, qd));
        popped = ended(qt, DEMI_OPC_POP);
        if (popped.qr_value.sga.sga_segs[0].sgaseg_len == 0) {
            GIVES(0, demi_sgafree(&popped.qr_value.sga));
            break;
        }
        GIVES(0, demi_push(&qt, qd, &popped.qr_value.sga));
        GIVES(0, demi_sgafree(&popped.qr_value.sga)); /* before it is complete */
        ended(qt, DEMI_OPC_PUSH);
    }
    GIVES(0, demi_close(qd));
}

static void *server(void *unused) {
    int listens, i;
    init();
    listens = listener(&server_at);
    pthread_barrier_wait(&ready);
    for (i = 0; i < CONNECTIONS; i++) {
        demi_qtoken_t qt = 0;
        demi_qresult_t accepted;
        GIVES(0, demi_accept(&qt, listens));
        accepted = ended(qt, DEMI_OPC_ACCEPT);
        serve_one(accepted.qr_value.ares.qd);
    }
    GIVES(0, demi_close(listens));
    return unused;
}

static void *client(void *unused) {
    static unsigned char out[70000], back[70000];
    int i;
    size_t size, at;
    init();
    pthread_barrier_wait(&ready);
    for (i = 0; i < CONNECTIONS; i++) {
        int qd = connected(&server_at), round;
        struct sockaddr_in peer;
        socklen_t len = sizeof peer;
        demi_qtoken_t qt = 0;
        GIVES(0, demi_getpeername(qd, (struct sockaddr *)&peer, &len));
        CHECK(peer.sin_port == server_at.sin_port && peer.sin_addr.s_addr == server_at.sin_addr.s_addr);
        for (round = 0; round < ROUNDS; round++) {
            size = SIZES[round % (int)(sizeof SIZES / sizeof SIZES[0])];
            for (at = 0; at < size; at++) {
                out[at] = (unsigned char)(at * 31 + (size_t)round);
            }
            push_bytes(qd, out, size);
            pop_bytes(qd, back, size);
            CHECK(memcmp(out, back, size) == 0);
        }
        GIVES(0, demi_finish(qd));
        GIVES(EPIPE, demi_finish(qd));
        pop_end(qd);
        GIVES(ENODATA, demi_pop(&qt, qd));
        GIVES(0, demi_close(qd));
        GIVES(EBADF, demi_close(qd));
    }
    return unused;
}

int main(void) {
    pthread_t threads[2];
    CHECK(pthread_barrier_init(&ready, NULL, 2) == 0);
    CHECK(pthread_create(&threads[0], NULL, server, NULL) == 0);
    CHECK(pthread_create(&threads[1], NULL, client, NULL) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
    return 0;
}
