/*
 * Rounds of 64 bytes through the C interface, there and back, between two queues of one thread: `demi_rounds KIND COUNT`,
 * where KIND is tcp or udp. The same as `demi::Rounds` does in Rust, call by call.
 */
#include <arpa/inet.h>
#include <demi/libos.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != 0) {                                                                                             \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #call);                                                 \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static demi_qresult_t result;

static void ended(demi_qtoken_t qt) {
    OK(demi_wait(&result, qt, NULL));
    if (result.qr_opcode == DEMI_OPC_FAILED) {
        fprintf(stderr, "failed: %s\n", strerror((int)result.qr_ret));
        exit(1);
    }
}

static int bound(int kind, struct sockaddr_in *at) {
    socklen_t size = sizeof *at;
    int qd = -1;
    memset(at, 0, sizeof *at);
    at->sin_family = AF_INET;
    at->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    OK(demi_socket(&qd, AF_INET, kind, 0));
    OK(demi_bind(qd, (struct sockaddr *)at, sizeof *at));
    OK(demi_getsockname(qd, (struct sockaddr *)at, &size));
    return qd;
}

static void connected(int qd, const struct sockaddr_in *to) {
    demi_qtoken_t qt;
    OK(demi_connect(&qt, qd, (const struct sockaddr *)to, sizeof *to));
    ended(qt);
}

static void streams(int both[2]) {
    struct sockaddr_in at;
    demi_qtoken_t accept;
    int listens = bound(SOCK_STREAM, &at);
    OK(demi_listen(listens, 1));
    OK(demi_accept(&accept, listens));
    OK(demi_socket(&both[0], AF_INET, SOCK_STREAM, 0));
    connected(both[0], &at);
    ended(accept);
    both[1] = result.qr_value.ares.qd;
}

static void datagrams(int both[2]) {
    struct sockaddr_in at[2];
    both[0] = bound(SOCK_DGRAM, &at[0]);
    both[1] = bound(SOCK_DGRAM, &at[1]);
    connected(both[0], &at[1]);
    connected(both[1], &at[0]);
}

static void round_trip(const int both[2]) {
    demi_sgarray_t sga = demi_sgaalloc(64);
    demi_qtoken_t qt;
    memset(sga.sga_segs[0].sgaseg_buf, 'x', 64);
    OK(demi_push(&qt, both[0], &sga));
    OK(demi_sgafree(&sga));
    ended(qt);
    OK(demi_pop(&qt, both[1]));
    ended(qt);
    sga = result.qr_value.sga;
    OK(demi_push(&qt, both[1], &sga));
    OK(demi_sgafree(&sga));
    ended(qt);
    OK(demi_pop(&qt, both[0]));
    ended(qt);
    OK(demi_sgafree(&result.qr_value.sga));
}

int main(int argc, char *argv[]) {
    int both[2] = {-1, -1};
    unsigned long i, count;
    if (argc != 3) {
        return 2;
    }
    count = strtoul(argv[2], NULL, 10);
    OK(demi_init(NULL));
    if (strcmp(argv[1], "udp") == 0) {
        datagrams(both);
    } else {
        streams(both);
    }
    for (i = 0; i < count; i++) {
        round_trip(both);
    }
    return 0;
}
