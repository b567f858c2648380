/*
 * Two processes: `peer server IP PORT` and `peer client IP PORT`, where IP is the server's. Messages go to and fro over one
 * connection, then a stream one way, the last bytes of which are still on their way when the client ends.
 */
#include "check.h"

enum { ROUNDS = 300, STREAM = 400000 };

static void serve(const struct sockaddr_in *at) {
    static unsigned char bytes[STREAM];
    int listens = -1, qd, round;
    demi_qtoken_t qt = 0;
    demi_qresult_t accepted;
    size_t i;
    GIVES(0, demi_socket(&listens, AF_INET, SOCK_STREAM, 0));
    GIVES(0, demi_bind(listens, (const struct sockaddr *)at, sizeof *at));
    GIVES(0, demi_listen(listens, 8));
    GIVES(0, demi_accept(&qt, listens));
    accepted = ended(qt, DEMI_OPC_ACCEPT);
    qd = accepted.qr_value.ares.qd;
    for (round = 0; round < ROUNDS; round++) {
        size_t size = (size_t)(round * 17 % 3000 + 1);
        pop_bytes(qd, bytes, size);
        push_bytes(qd, bytes, size);
    }
    pop_bytes(qd, bytes, sizeof bytes);
    for (i = 0; i < sizeof bytes; i++) {
        CHECK(bytes[i] == (unsigned char)(i * 7 / 5));
    }
    pop_end(qd);
    GIVES(0, demi_close(qd));
    GIVES(0, demi_close(listens));
}

static int patient(const struct sockaddr_in *at) {
    const struct timespec SOON = {0, 20000000};
    int tries;
    for (tries = 0; tries < 500; tries++) {
        int qd = -1;
        demi_qtoken_t qt = 0;
        demi_qresult_t result;
        GIVES(0, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
        GIVES(0, demi_connect(&qt, qd, (const struct sockaddr *)at, sizeof *at));
        GIVES(0, demi_wait(&result, qt, &LIMIT));
        if (result.qr_opcode == DEMI_OPC_CONNECT) {
            return qd;
        }
        GIVES(0, demi_close(qd));
        nanosleep(&SOON, NULL); /* nobody listens there yet */
    }
    CHECK(!"the server comes up");
    return -1;
}

static void ask(const struct sockaddr_in *at) {
    static unsigned char out[STREAM], back[3000];
    int qd = patient(at), round;
    size_t i;
    for (round = 0; round < ROUNDS; round++) {
        size_t size = (size_t)(round * 17 % 3000 + 1);
        memset(out, round, size);
        push_bytes(qd, out, size);
        pop_bytes(qd, back, size);
        CHECK(memcmp(out, back, size) == 0);
    }
    for (i = 0; i < sizeof out; i++) {
        out[i] = (unsigned char)(i * 7 / 5);
    }
    for (i = 0; i < 4; i++) {
        demi_qtoken_t qt = 0;
        demi_sgarray_t sga = message(out + i * (STREAM / 4), STREAM / 4);
        GIVES(0, demi_push(&qt, qd, &sga));
        GIVES(0, demi_sgafree(&sga));
    }
    GIVES(0, demi_close(qd));
}

int main(int argc, char *argv[]) {
    struct sockaddr_in at;
    CHECK(argc == 4);
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_port = htons((uint16_t)atoi(argv[3]));
    CHECK(inet_pton(AF_INET, argv[2], &at.sin_addr) == 1);
    init();
    if (strcmp(argv[1], "server") == 0) {
        serve(&at);
    } else {
        ask(&at);
    }
    return 0;
}
