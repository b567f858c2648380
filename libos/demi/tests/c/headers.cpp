// The headers, in C++: all of them, alone and together, and names with C's linkage.
#include <demi/cc.h>
#include <demi/types.h>
#include <demi/sga.h>
#include <demi/wait.h>
#include <demi/libos.h>

static_assert(sizeof(demi_sgarray_t) == 40 && sizeof(demi_qresult_t) == 64, "packed");
static_assert(DEMI_OPC_INVALID == 0 && DEMI_OPC_FAILED == 6, "Demikernel's values");

int main() {
    int qd = -1;
    if (demi_init(nullptr) != 0 || demi_queue(&qd) != 0) {
        return 1;
    }
    demi_sgarray_t sga = demi_sgaalloc(4);
    demi_qtoken_t push = 0;
    demi_qresult_t result;
    bool pushed = demi_push(&push, qd, &sga) == 0 && demi_wait(&result, push, nullptr) == 0;
    return pushed && result.qr_opcode == DEMI_OPC_PUSH && demi_sgafree(&sga) == 0 ? 0 : 1;
}
