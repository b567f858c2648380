/*
 * A hundred thousand calls with arguments by chance: descriptors, tokens, lengths, names and places of buffers that are
 * right, nearly right, or nothing at all. TEST_SEED is another chance. Whatever they give, the library goes on, and what was right stays right.
 */
#include "check.h"

enum { CALLS = 100000, KEPT = 64 };

static uint64_t state = 0x5eed;

static uint64_t chance(void) { /* xorshift64, which is random enough to be wild */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static int descriptors[KEPT];
static demi_qtoken_t tokens[KEPT];
static demi_sgarray_t arrays[KEPT];
static void *memory[KEPT];
static const struct timespec NONE = {0, 0};

static int some_qd(void) {
    int qd = descriptors[chance() % KEPT];
    switch (chance() % 8) {
    case 0: return (int)chance();
    case 1: return qd ^ (1 << chance() % 31);
    default: return qd;
    }
}

static demi_qtoken_t some_qt(void) {
    demi_qtoken_t qt = tokens[chance() % KEPT];
    switch (chance() % 8) {
    case 0: return chance();
    case 1: return qt ^ (UINT64_C(1) << chance() % 64);
    default: return qt;
    }
}

static demi_sgarray_t some_array(void) {
    demi_sgarray_t sga = arrays[chance() % KEPT];
    switch (chance() % 16) {
    case 0: sga.sga_buf = (void *)(uintptr_t)chance(); break;
    case 1: sga.sga_buf = NULL; break;
    case 2: sga.sga_numsegs = (uint32_t)chance(); break;
    case 3: sga.sga_segs[0].sgaseg_buf = (void *)(uintptr_t)chance(); break;
    case 4: sga.sga_segs[0].sgaseg_len = (uint32_t)chance(); break;
    case 5: sga.sga_segs[0].sgaseg_buf = (char *)(uintptr_t)((uintptr_t)sga.sga_segs[0].sgaseg_buf + chance() % 64); break;
    case 6: sga.sga_segs[0].sgaseg_buf = memory[chance() % KEPT]; sga.sga_buf = NULL; break;
    default: break;
    }
    return sga;
}

static struct sockaddr_in some_address(void) {
    struct sockaddr_in at = local_address(chance() % 4 == 0 ? 9 : 0);
    socklen_t size = sizeof at;
    if (chance() % 2 == 0) {
        (void)demi_getsockname(some_qd(), (struct sockaddr *)&at, &size);
    } else if (chance() % 8 == 0) {
        at.sin_family = (sa_family_t)chance();
    }
    return at;
}

static socklen_t some_size(void) {
    return chance() % 8 == 0 ? (socklen_t)chance() : (socklen_t)sizeof(struct sockaddr_in);
}

/* What a result brought is kept or freed. */
static void take(const demi_qresult_t *result) {
    CHECK(result->qr_opcode >= DEMI_OPC_PUSH && result->qr_opcode <= DEMI_OPC_FAILED);
    CHECK(result->qr_opcode != DEMI_OPC_FAILED || result->qr_ret > 0);
    if (result->qr_opcode == DEMI_OPC_POP) {
        demi_sgarray_t sga = result->qr_value.sga;
        size_t place = chance() % KEPT, i;
        unsigned sum = 0;
        for (i = 0; i < sga.sga_segs[0].sgaseg_len; i++) {
            sum += ((unsigned char *)sga.sga_segs[0].sgaseg_buf)[i]; /* all of it is there */
        }
        CHECK(sum < 0xffffffff);
        (void)demi_sgafree(&arrays[place]);
        arrays[place] = sga;
    } else if (result->qr_opcode == DEMI_OPC_ACCEPT) {
        size_t place = chance() % KEPT;
        (void)demi_close(descriptors[place]);
        descriptors[place] = result->qr_value.ares.qd;
    }
}

static void one(void) {
    struct sockaddr_in at;
    demi_qresult_t results[4];
    demi_sgarray_t sga;
    demi_sgaseg_t segs[3];
    int place = 0, qd = -1, value = (int)chance(), count = (int)(chance() % 5) - 1;
    size_t kept = chance() % KEPT;
    socklen_t size = some_size();
    switch (chance() % 24) {
    case 0:
        if (demi_socket(&qd, AF_INET, chance() % 2 ? SOCK_STREAM : SOCK_DGRAM, 0) == 0) {
            (void)demi_close(descriptors[kept]);
            descriptors[kept] = qd;
        }
        break;
    case 1:
        if (demi_queue(&qd) == 0) {
            (void)demi_close(descriptors[kept]);
            descriptors[kept] = qd;
        }
        break;
    case 2: at = some_address(); (void)demi_bind(some_qd(), (struct sockaddr *)&at, size > 128 ? size : sizeof at); break;
    case 3: (void)demi_listen(some_qd(), value % 4); break;
    case 4: (void)demi_accept(&tokens[kept], some_qd()); break;
    case 5: at = some_address(); (void)demi_connect(&tokens[kept], some_qd(), (struct sockaddr *)&at, sizeof at); break;
    case 6: (void)demi_close(some_qd()); break;
    case 7: (void)demi_finish(some_qd()); break;
    case 8: case 9: sga = some_array(); (void)demi_push(&tokens[kept], some_qd(), &sga); break;
    case 10:
        sga = some_array();
        at = some_address();
        (void)demi_pushto(&tokens[kept], some_qd(), &sga, (struct sockaddr *)&at, sizeof at);
        break;
    case 11:
        for (place = 0; place < 3; place++) {
            segs[place] = some_array().sga_segs[0];
        }
        (void)demi_pushv(&tokens[kept], some_qd(), segs, value % 4);
        break;
    case 12: case 13: (void)demi_pop(&tokens[kept], some_qd()); break;
    case 14: (void)demi_pop_max(&tokens[kept], some_qd(), (size_t)(chance() >> chance() % 64)); break;
    case 15: (void)demi_cancel(some_qt()); break;
    case 16: (void)demi_setsockopt(some_qd(), value % 2 ? SOL_SOCKET : value, value % 60, &value, sizeof value); break;
    case 17: if (demi_wait(results, some_qt(), &NONE) == 0) { take(results); } break;
    case 18: {
        demi_qtoken_t list[3];
        list[0] = some_qt(); list[1] = some_qt(); list[2] = some_qt();
        if (demi_wait_any(results, &place, list, count, &NONE) == 0) {
            CHECK(place >= 0 && place < count && results[0].qr_qt == list[place]);
            take(results);
        }
        break;
    }
    case 19: {
        int told = -1, given = demi_wait_next_n(results, count, &told, &NONE);
        CHECK(told >= 0 && told <= 4 && (given != 0 || told == count));
        for (place = 0; place < told; place++) {
            take(&results[place]);
        }
        break;
    }
    case 20: (void)demi_sgafree(&arrays[kept]); arrays[kept] = demi_sgaalloc(chance() % 3000); break;
    case 21: sga = some_array(); (void)demi_sgafree(&sga); break;
    case 22: (void)demi_free(memory[kept]); memory[kept] = demi_malloc(chance() % 3000); break;
    default:
        (void)demi_free(chance() % 2 ? (char *)(uintptr_t)((uintptr_t)memory[kept] + 1) : (void *)(uintptr_t)chance());
    }
}

int main(void) {
    int i, client, server, all;
    char back[5];
    if (getenv("TEST_SEED") != NULL) {
        state = strtoull(getenv("TEST_SEED"), NULL, 0) | 1;
    }
    init();
    for (i = 0; i < KEPT; i++) {
        descriptors[i] = -1;
        arrays[i] = demi_sgaalloc(100);
        CHECK(arrays[i].sga_buf != NULL);
        memset(arrays[i].sga_segs[0].sgaseg_buf, i, 100);
    }
    for (i = 0; i < CALLS; i++) {
        one();
        if (i % 10000 == 0) {
            pair(&client, &server);
            push_bytes(client, "sane!", 5);
            pop_bytes(server, back, 5);
            CHECK(memcmp(back, "sane!", 5) == 0);
            GIVES(0, demi_close(client));
            GIVES(0, demi_close(server));
        }
    }
    for (all = 0; all < KEPT; all++) {
        (void)demi_close(descriptors[all]);
        (void)demi_sgafree(&arrays[all]);
        (void)demi_free(memory[all]);
    }
    return 0;
}
