/*
 * What compilers have different words for. The names are Demikernel's; the annotations that only Microsoft's compiler
 * reads mean nothing to the others.
 */
#ifndef DEMI_CC_H
#define DEMI_CC_H

#ifndef _MSC_VER
#define _In_
#define _In_z_
#define _In_opt_
#define _In_reads_(count)
#define _In_reads_bytes_(bytes)
#define _Out_
#define _Out_writes_to_(room, count)
#define _Deref_pre_z_
#endif

#if defined(__GNUC__)
/* Arguments, counted from one, that are not NULL. (If they are all the same, the call gives EINVAL.) */
#define ATTR_NONNULL(...) __attribute__((nonnull(__VA_ARGS__)))
#define ATTR_NODISCARD __attribute__((warn_unused_result))
#define DEMI_PACKED __attribute__((__packed__))
#else
#define ATTR_NONNULL(...)
#define ATTR_NODISCARD
#define DEMI_PACKED
#endif

#endif /* DEMI_CC_H */
