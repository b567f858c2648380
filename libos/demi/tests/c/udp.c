/* Datagrams: boundaries, senders, a default peer, and what is too long. */
#include "check.h"

static int datagrams(struct sockaddr_in *at) {
    int qd = -1;
    socklen_t size = sizeof *at;
    *at = local_address(0);
    GIVES(0, demi_socket(&qd, AF_INET, SOCK_DGRAM, IPPROTO_UDP));
    GIVES(0, demi_bind(qd, (const struct sockaddr *)at, sizeof *at));
    GIVES(0, demi_getsockname(qd, (struct sockaddr *)at, &size));
    return qd;
}

int main(void) {
    struct sockaddr_in one_at, other_at, from;
    static char longest[66000];
    int one, other, i;
    demi_qtoken_t qt = 0, pops[3];
    demi_qresult_t result;
    demi_sgarray_t sga;

    init();
    one = datagrams(&one_at);
    other = datagrams(&other_at);
    for (i = 0; i < 3; i++) {
        GIVES(0, demi_pop(&pops[i], other));
    }
    for (i = 0; i < 3; i++) {
        sga = message("datagram", (size_t)(6 + i));
        GIVES(0, demi_pushto(&qt, one, &sga, (const struct sockaddr *)&other_at, sizeof other_at));
        GIVES(0, demi_sgafree(&sga));
        ended(qt, DEMI_OPC_PUSH);
    }
    for (i = 0; i < 3; i++) {
        result = ended(pops[i], DEMI_OPC_POP);
        CHECK(result.qr_value.sga.sga_segs[0].sgaseg_len == (uint32_t)(6 + i));
        CHECK(memcmp(result.qr_value.sga.sga_segs[0].sgaseg_buf, "datagram", (size_t)(6 + i)) == 0);
        from = result.qr_value.sga.sga_addr;
        CHECK(from.sin_family == AF_INET && from.sin_port == one_at.sin_port);
        CHECK(from.sin_addr.s_addr == one_at.sin_addr.s_addr);
        GIVES(0, demi_sgafree(&result.qr_value.sga));
    }

    /* A default peer. */
    sga = message("back", 4);
    GIVES(ENOTCONN, demi_push(&qt, other, &sga));
    GIVES(0, demi_connect(&qt, other, (const struct sockaddr *)&one_at, sizeof one_at));
    ended(qt, DEMI_OPC_CONNECT);
    GIVES(0, demi_push(&qt, other, &sga));
    ended(qt, DEMI_OPC_PUSH);
    GIVES(0, demi_sgafree(&sga));

    /* One that is longer than what was asked for is cut, and says so. */
    GIVES(0, demi_pop_max(&qt, one, 2));
    GIVES(0, demi_wait(&result, qt, &LIMIT));
    CHECK(result.qr_opcode == DEMI_OPC_POP && result.qr_ret == EMSGSIZE);
    CHECK(result.qr_value.sga.sga_segs[0].sgaseg_len == 2);
    GIVES(0, demi_sgafree(&result.qr_value.sga));

    /* Longer than any datagram. */
    sga = message(longest, sizeof longest);
    GIVES(EMSGSIZE, demi_pushto(&qt, one, &sga, (const struct sockaddr *)&other_at, sizeof other_at));
    GIVES(0, demi_sgafree(&sga));

    GIVES(0, demi_pop(&qt, one));
    GIVES(0, demi_close(one));
    result = ended(qt, DEMI_OPC_FAILED);
    CHECK(result.qr_ret == ECANCELED && result.qr_qd == one);
    GIVES(0, demi_close(other));
    return 0;
}
