/* What makes no sense is refused with an errno, and changes nothing. */
#include "check.h"

/* The headers say that these must not be NULL; the library says what happens if they are. */
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wnonnull"
#endif

static int volatile zero;

static void nulls(void) {
    void *null = zero ? &null : NULL;
    struct sockaddr_in at = local_address(0);
    socklen_t size = sizeof at;
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    int number = 0;
    GIVES(EINVAL, demi_socket(null, AF_INET, SOCK_STREAM, 0));
    GIVES(EINVAL, demi_bind(0, null, sizeof at));
    GIVES(EINVAL, demi_accept(null, 0));
    GIVES(EINVAL, demi_connect(null, 0, (struct sockaddr *)&at, sizeof at));
    GIVES(EINVAL, demi_connect(&qt, 0, null, sizeof at));
    GIVES(EINVAL, demi_push(null, 0, null));
    GIVES(EINVAL, demi_push(&qt, 0, null));
    GIVES(EINVAL, demi_pushto(&qt, 0, null, (struct sockaddr *)&at, sizeof at));
    GIVES(EINVAL, demi_pushto(&qt, 0, null, null, 0));
    GIVES(EINVAL, demi_pushv(&qt, 0, null, 1));
    GIVES(EINVAL, demi_pop(null, 0));
    GIVES(EINVAL, demi_queue(null));
    GIVES(EINVAL, demi_waker(null));
    GIVES(EINVAL, demi_setsockopt(0, SOL_SOCKET, SO_LINGER, null, sizeof(struct linger)));
    GIVES(EINVAL, demi_getsockopt(0, SOL_SOCKET, SO_LINGER, null, &size));
    GIVES(EINVAL, demi_getsockopt(0, SOL_SOCKET, SO_KEEPALIVE, &number, null));
    GIVES(EINVAL, demi_getpeername(0, null, &size));
    GIVES(EINVAL, demi_getpeername(0, (struct sockaddr *)&at, null));
    GIVES(EINVAL, demi_getsockname(0, null, null));
    GIVES(EINVAL, demi_sgafree(null));
    GIVES(0, demi_free(null));
    GIVES(EINVAL, demi_wait(null, 0, null));
    GIVES(EINVAL, demi_wait_any(null, &number, &qt, 1, null));
    GIVES(EINVAL, demi_wait_any(&result, null, &qt, 1, null));
    GIVES(EINVAL, demi_wait_any(&result, &number, null, 1, null));
    GIVES(EINVAL, demi_wait_all(null, &qt, 1, null));
    GIVES(EINVAL, demi_wait_all(&result, null, 1, null));
    GIVES(EINVAL, demi_wait_next_n(null, 1, &number, null));
    GIVES(EINVAL, demi_wait_next_n(&result, 1, null, null));
}

static void descriptors(void) {
    static const int WILD[] = {-1, 0, 3, 77, 1 << 20, 0x7fffffff, (int)0x80000000};
    struct sockaddr_in at = local_address(0);
    socklen_t size = sizeof at;
    demi_sgarray_t sga = message("x", 1);
    demi_qtoken_t qt = 0;
    int on = 1;
    size_t i;
    for (i = 0; i < sizeof WILD / sizeof WILD[0]; i++) {
        int qd = WILD[i];
        GIVES(EBADF, demi_bind(qd, (struct sockaddr *)&at, sizeof at));
        GIVES(EBADF, demi_listen(qd, 1));
        GIVES(EBADF, demi_accept(&qt, qd));
        GIVES(EBADF, demi_connect(&qt, qd, (struct sockaddr *)&at, sizeof at));
        GIVES(EBADF, demi_push(&qt, qd, &sga));
        GIVES(EBADF, demi_pushto(&qt, qd, &sga, (struct sockaddr *)&at, sizeof at));
        GIVES(EBADF, demi_pop(&qt, qd));
        GIVES(EBADF, demi_pop_max(&qt, qd, 1));
        GIVES(EBADF, demi_finish(qd));
        GIVES(EBADF, demi_close(qd));
        GIVES(EBADF, demi_setsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
        GIVES(EBADF, demi_getsockname(qd, (struct sockaddr *)&at, &size));
        GIVES(EBADF, demi_getpeername(qd, (struct sockaddr *)&at, &size));
    }
    CHECK(qt == 0);
    GIVES(0, demi_sgafree(&sga));
}

static void tokens(void) {
    static const demi_qtoken_t WILD[] = {0, 1, 12345, (demi_qtoken_t)-1, 1ULL << 40};
    demi_qresult_t result, results[2];
    demi_qtoken_t qt = 0, both[2];
    int qd = -1, place = -1;
    size_t i;
    for (i = 0; i < sizeof WILD / sizeof WILD[0]; i++) {
        CHECK(demi_wait(&result, WILD[i], &LIMIT) != 0);
        CHECK(demi_wait_any(&result, &place, &WILD[i], 1, &LIMIT) != 0);
        CHECK(demi_wait_all(&result, &WILD[i], 1, &LIMIT) != 0);
        CHECK(demi_cancel(WILD[i]) != 0);
    }
    GIVES(0, demi_queue(&qd));
    push_bytes(qd, "once", 4);
    GIVES(0, demi_pop(&qt, qd));
    result = ended(qt, DEMI_OPC_POP);
    GIVES(ESTALE, demi_wait(&result, qt, &LIMIT));
    GIVES(ESTALE, demi_cancel(qt));
    GIVES(0, demi_sgafree(&result.qr_value.sga));
    GIVES(0, demi_pop(&qt, qd));
    both[0] = both[1] = qt;
    GIVES(EINVAL, demi_wait_all(results, both, 2, &LIMIT));
    GIVES(EBUSY, demi_wait_any(&result, &place, both, 2, &LIMIT));
    /* A wild token is refused also behind one that has ended. */
    push_bytes(qd, "next", 4);
    both[1] = 1;
    CHECK(demi_wait_any(&result, &place, both, 2, &LIMIT) != 0);
    GIVES(0, demi_wait_any(&result, &place, both, 1, &LIMIT));
    CHECK(place == 0 && result.qr_qt == qt && result.qr_opcode == DEMI_OPC_POP);
    GIVES(0, demi_sgafree(&result.qr_value.sga));
    GIVES(0, demi_pop(&qt, qd));
    GIVES(0, demi_cancel(qt));
    result = ended(qt, DEMI_OPC_FAILED);
    CHECK(result.qr_ret == ECANCELED);
    GIVES(0, demi_close(qd));
}

static void lengths(void) {
    struct sockaddr_in at = local_address(0);
    struct timespec negative = {-1, 0}, beyond = {0, 1000000000};
    demi_qresult_t result;
    demi_qtoken_t qt = 0;
    int qd = -1, place = 0, on = 1;
    socklen_t size;
    GIVES(EAFNOSUPPORT, demi_socket(&qd, 12345, SOCK_STREAM, 0));
    GIVES(ESOCKTNOSUPPORT, demi_socket(&qd, AF_INET, SOCK_RAW, 0));
    GIVES(EPROTONOSUPPORT, demi_socket(&qd, AF_INET, SOCK_STREAM, IPPROTO_UDP));
    CHECK(qd == -1);
    GIVES(0, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    GIVES(EINVAL, demi_bind(qd, (struct sockaddr *)&at, (socklen_t)-1));
    GIVES(EINVAL, demi_bind(qd, (struct sockaddr *)&at, 3));
    GIVES(EINVAL, demi_connect(&qt, qd, (struct sockaddr *)&at, (socklen_t)-1));
    at.sin_family = 1234;
    GIVES(EAFNOSUPPORT, demi_bind(qd, (struct sockaddr *)&at, sizeof at));
    at = local_address(0);
    GIVES(EINVAL, demi_listen(qd, 1)); /* it is not bound */
    GIVES(0, demi_bind(qd, (struct sockaddr *)&at, sizeof at));
    GIVES(EINVAL, demi_listen(qd, -1));
    GIVES(EINVAL, demi_listen(qd, 0));
    size = (socklen_t)-1;
    GIVES(EINVAL, demi_getsockname(qd, (struct sockaddr *)&at, &size));
    GIVES(ENOTCONN, demi_pop(&qt, qd));
    GIVES(EINVAL, demi_wait_any(&result, &place, &qt, -1, &LIMIT));
    GIVES(EINVAL, demi_wait_any(&result, &place, &qt, 0, &LIMIT));
    GIVES(EINVAL, demi_wait_all(&result, &qt, -1, &LIMIT));
    GIVES(EINVAL, demi_wait_next_n(&result, -1, &place, &LIMIT));
    GIVES(EINVAL, demi_wait_next_n(&result, 0, &place, &LIMIT));
    GIVES(EINVAL, demi_wait_next_n(&result, 1, &place, &negative));
    CHECK(place == 0);
    GIVES(EINVAL, demi_wait(&result, qt, &negative));
    GIVES(EINVAL, demi_wait(&result, qt, &beyond));
    GIVES(EINVAL, demi_setsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &on, 1));
    GIVES(EINVAL, demi_setsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &on, (socklen_t)-1));
    GIVES(0, demi_close(qd));
}

static void buffers(void) {
    demi_sgarray_t sga, other, copy;
    demi_qtoken_t qt = 0;
    char own[16] = "of the stack";
    demi_sgaseg_t seg;
    char *memory;
    int qd = -1;
    GIVES(0, demi_queue(&qd));
    CHECK(demi_sgaalloc(0).sga_buf == NULL);
    CHECK(demi_sgaalloc((size_t)-1).sga_buf == NULL);
    CHECK(demi_malloc(0) == NULL && demi_malloc((size_t)-1) == NULL);
    sga = message("0123456789", 10);
    other = message("other", 5);

    copy = sga; /* beyond its end, before its start, of nothing, of another's memory */
    copy.sga_segs[0].sgaseg_len = 11;
    GIVES(EFAULT, demi_push(&qt, qd, &copy));
    copy.sga_segs[0].sgaseg_len = 0xffffffff;
    GIVES(EFAULT, demi_push(&qt, qd, &copy));
    copy = sga;
    copy.sga_segs[0].sgaseg_buf = (char *)sga.sga_segs[0].sgaseg_buf - 1;
    GIVES(EFAULT, demi_push(&qt, qd, &copy));
    copy = sga;
    copy.sga_segs[0].sgaseg_len = 0;
    GIVES(EINVAL, demi_push(&qt, qd, &copy));
    copy = sga;
    copy.sga_segs[0].sgaseg_buf = other.sga_segs[0].sgaseg_buf;
    copy.sga_segs[0].sgaseg_len = 5;
    GIVES(EFAULT, demi_push(&qt, qd, &copy));
    copy = sga;
    copy.sga_numsegs = 2;
    GIVES(EINVAL, demi_push(&qt, qd, &copy));
    copy = sga;
    copy.sga_buf = own;
    GIVES(EINVAL, demi_push(&qt, qd, &copy));
    GIVES(EINVAL, demi_sgafree(&copy));
    copy.sga_buf = NULL; /* memory that is not the heap's */
    copy.sga_segs[0].sgaseg_buf = own;
    GIVES(EFAULT, demi_push(&qt, qd, &copy));

    GIVES(0, demi_sgafree(&sga));
    GIVES(EINVAL, demi_sgafree(&sga));
    GIVES(EINVAL, demi_push(&qt, qd, &sga));
    GIVES(0, demi_sgafree(&other));

    memory = demi_malloc(100);
    CHECK(memory != NULL);
    seg.sgaseg_buf = memory + 90;
    seg.sgaseg_len = 11;
    GIVES(EFAULT, demi_pushv(&qt, qd, &seg, 1));
    GIVES(EINVAL, demi_pushv(&qt, qd, &seg, -1));
    GIVES(EINVAL, demi_free(memory + 1));
    GIVES(EINVAL, demi_free(own));
    GIVES(0, demi_free(memory));
    GIVES(EINVAL, demi_free(memory));
    seg.sgaseg_len = 1;
    GIVES(EFAULT, demi_pushv(&qt, qd, &seg, 1));
    GIVES(0, demi_close(qd));
}

static void options(void) {
    struct linger linger = {1, 5}, got;
    int qd = -1, number, value = 1;
    socklen_t size = sizeof got;
    GIVES(0, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    GIVES(0, demi_getsockopt(qd, SOL_SOCKET, SO_LINGER, &got, &size));
    CHECK(size == sizeof got && got.l_onoff == 0);
    GIVES(0, demi_setsockopt(qd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    GIVES(0, demi_getsockopt(qd, SOL_SOCKET, SO_LINGER, &got, &size));
    CHECK(got.l_onoff == 1 && got.l_linger == 5);
    linger.l_linger = 60;
    GIVES(0, demi_setsockopt(qd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    GIVES(0, demi_getsockopt(qd, SOL_SOCKET, SO_LINGER, &got, &size));
    CHECK(got.l_onoff == 1 && got.l_linger == 60);
    linger.l_linger = -5;
    GIVES(EINVAL, demi_setsockopt(qd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    size = sizeof number;
    GIVES(0, demi_getsockopt(qd, IPPROTO_TCP, TCP_NODELAY, &number, &size));
    CHECK(number == 1);
    value = 0;
    GIVES(0, demi_setsockopt(qd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
    GIVES(0, demi_getsockopt(qd, IPPROTO_TCP, TCP_NODELAY, &number, &size));
    CHECK(number == 0);
    value = 77;
    GIVES(0, demi_setsockopt(qd, IPPROTO_TCP, TCP_KEEPIDLE, &value, sizeof value));
    GIVES(0, demi_getsockopt(qd, IPPROTO_TCP, TCP_KEEPIDLE, &number, &size));
    CHECK(number == 77);
    GIVES(0, demi_getsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &number, &size));
    CHECK(number == 1);
    value = 1;
    GIVES(0, demi_setsockopt(qd, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
    GIVES(0, demi_getsockopt(qd, IPPROTO_TCP, TCP_KEEPIDLE, &number, &size));
    CHECK(number == 77);
    value = 1 << 16;
    GIVES(0, demi_setsockopt(qd, SOL_SOCKET, SO_SNDBUF, &value, sizeof value));
    GIVES(0, demi_getsockopt(qd, SOL_SOCKET, SO_SNDBUF, &number, &size));
    CHECK(number == 1 << 16);
    value = 0;
    GIVES(EINVAL, demi_setsockopt(qd, SOL_SOCKET, SO_RCVBUF, &value, sizeof value));
    GIVES(0, demi_setsockopt(qd, SOL_SOCKET, SO_REUSEADDR, &value, sizeof value));
    GIVES(ENOPROTOOPT, demi_setsockopt(qd, SOL_SOCKET, SO_BROADCAST, &value, sizeof value));
    GIVES(ENOTSUP, demi_setsockopt(qd, 12345, 1, &value, sizeof value));
    GIVES(ENOTSUP, demi_getsockopt(qd, -1, -1, &value, &size));
    GIVES(0, demi_close(qd));
}

int main(void) {
    demi_qtoken_t qt = 0;
    demi_qresult_t result;
    int qd = -1;
    /* Before demi_init there is nothing to call. */
    GIVES(ENOSYS, demi_socket(&qd, AF_INET, SOCK_STREAM, 0));
    GIVES(ENOSYS, demi_wait(&result, qt, NULL));
    GIVES(ENOSYS, demi_close(1));
    CHECK(demi_sgaalloc(10).sga_buf == NULL && demi_malloc(10) == NULL);
    GIVES(ESRCH, demi_wake(0));
    GIVES(0, demi_init(NULL));
    GIVES(EEXIST, demi_init(NULL));
    nulls();
    descriptors();
    tokens();
    lengths();
    buffers();
    options();
    /* And it works all the same. */
    {
        int client, server;
        char back[5];
        pair(&client, &server);
        push_bytes(client, "hello", 5);
        pop_bytes(server, back, 5);
        CHECK(memcmp(back, "hello", 5) == 0);
        GIVES(0, demi_close(client));
        pop_end(server);
        GIVES(0, demi_close(server));
    }
    return 0;
}
