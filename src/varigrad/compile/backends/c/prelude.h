/* What the loops of a step are written in: torch's functions that C lacks, and vectors of those that it has. */
#include <math.h>
#include <stdint.h>
#include <stdbool.h>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define VECTOR __attribute__((simd("notinbranch")))
VECTOR float expf(float); VECTOR double exp(double);
VECTOR float logf(float); VECTOR double log(double);
VECTOR float powf(float, float); VECTOR double pow(double, double);
VECTOR float sinf(float); VECTOR double sin(double);
VECTOR float cosf(float); VECTOR double cos(double);
#if __GLIBC_PREREQ(2, 35)
VECTOR float expm1f(float); VECTOR double expm1(double);
VECTOR float log1pf(float); VECTOR double log1p(double);
VECTOR float tanhf(float); VECTOR double tanh(double);
VECTOR float erff(float); VECTOR double erf(double);
#endif
#endif

#define WRAP(i, n) ((i) < 0 ? (i) + (n) : (i))
/* An index, or 0 where there is no such entry: that is noted, and the step fails. */
static inline int64_t checked(int64_t i, int64_t n, long *bad) {
    if (i < 0 || i >= n) { *bad = 1; return 0; }
    return i;
}

static inline double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static inline float sigmoidf(float x) { return 1 / (1 + expf(-x)); }
static inline double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
static inline float softplusf(float x) { return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x))); }
static inline double larger(double a, double b) { return a != a || a > b ? a : b; }
static inline float largerf(float a, float b) { return a != a || a > b ? a : b; }
static inline double smaller(double a, double b) { return a != a || a < b ? a : b; }
static inline float smallerf(float a, float b) { return a != a || a < b ? a : b; }
static inline double xlogy(double x, double y) { return y != y ? NAN : x == 0 ? 0 : x * log(y); }
static inline float xlogyf(float x, float y) { return y != y ? NAN : x == 0 ? 0 : x * logf(y); }
static inline double xlog1py(double x, double y) { return y != y ? NAN : x == 0 ? 0 : x * log1p(y); }
static inline float xlog1pyf(float x, float y) { return y != y ? NAN : x == 0 ? 0 : x * log1pf(y); }
/* With the sign of the divisor. */
static inline double modulo(double a, double b) { double r = fmod(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
static inline float modulof(float a, float b) { float r = fmodf(a, b); return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
static inline int64_t modulo_of_whole(int64_t a, int64_t b) { int64_t r = b == -1 ? 0 : a % b; return r && (r < 0) != (b < 0) ? r + b : r; }
/* Also by more bits than there are. */
static inline int64_t shifted(int64_t a, int64_t b) { return a >> (b < 0 || b > 63 ? 63 : b); }
static inline double signum(double x) { return x != x ? 0 : (x > 0) - (x < 0); }
static inline float signumf(float x) { return x != x ? 0 : (x > 0) - (x < 0); }
static inline double logaddexp(double a, double b) { return a == b && isinf(a) ? a : larger(a, b) + log1p(exp(-fabs(a - b))); }
static inline float logaddexpf(float a, float b) { return logaddexp(a, b); }

/* The C library's also writes a global variable. */
double lgamma_r(double, int *);
static inline double loggamma(double x) { int sign; return lgamma_r(x, &sign); }
/* In single precision by vectors: the recurrence to 8 and above, Stirling's series there, reflection below 1/2. */
static inline float loggammaf(float x) {
    double z = x < 0.5f ? 1 - (double)x : x, p = 1, r = x - rint(x);
    int small = z < 8;
    p = small ? z * (z + 1) * (z + 2) * (z + 3) * (z + 4) * (z + 5) * (z + 6) * (z + 7) : 1;
    z = small ? z + 8 : z;
    double w = 1 / z, v = w * w;
    double s = (z - 0.5) * log(z) - z + 0.91893853320467274178
        + w * (1. / 12 - v * (1. / 360 - v * (1. / 1260 - v * (1. / 1680 - v * (1. / 1188 - v * (691. / 360360 - v / 156))))));
    p = x < 0.5f ? p * M_PI / fabs(sin(M_PI * r)) : p;
    s = s - log(p);
    return isinf(x) ? INFINITY : x < 0.5f ? -s : s;
}

/* psi: reflection, the recurrence up to 10, then the asymptotic series (Abramowitz and Stegun 6.3.18). */
static double digamma(double x) {
    double y = 0;
    if (x == 0) return copysign(INFINITY, -x);
    if (x < 0) {
        if (x == floor(x)) return NAN;
        y = -M_PI / tan(M_PI * (x - trunc(x)));
        x = 1 - x;
    }
    while (x < 10) { y -= 1 / x; x += 1; }
    double z = 1 / (x * x);
    return y + log(x) - 0.5 / x
        - z * (1. / 12 - z * (1. / 120 - z * (1. / 252 - z * (1. / 240 - z * (1. / 132 - z * 691. / 32760)))));
}
/* In single precision by vectors, likewise. */
static inline float digammaf(float x) {
    double z = x < 0.5f ? 1 - (double)x : x, r = x - rint(x), y = 0;
    int small = z < 8;
    double a = z * (z + 7), b = a + 6, c = a + 10, d = a + 12, e = 2 * z + 7;
    y = small ? e * ((a + b) * (c * d) + (c + d) * (a * b)) / (a * b * (c * d)) : 0;
    z = small ? z + 8 : z;
    double w = 1 / z, v = w * w;
    y = log(z) - w / 2 - v * (1. / 12 - v * (1. / 120 - v * (1. / 252 - v * (1. / 240 - v / 132)))) - y;
    y = x < 0.5f ? y - M_PI * sin(M_PI * (0.5 - fabs(r))) / sin(M_PI * r) : y; /* compilers make no vectors of sincos */
    return x == 0 ? copysignf(INFINITY, -x) : x < 0 && r == 0 ? NAN : y;
}

/* psi': likewise (6.4.12). */
static double trigamma(double x) {
    double y = 0, sign = 1;
    if (x < 0.5) {
        double s = M_PI / sin(M_PI * x);
        y = s * s;
        sign = -1;
        x = 1 - x;
    }
    double t = 0;
    while (x < 10) { t += 1 / (x * x); x += 1; }
    double z = 1 / (x * x);
    t += 0.5 * z + (1 + z * (1. / 6 - z * (1. / 30 - z * (1. / 42 - z * (1. / 30 - z * 5. / 66))))) / x;
    return y + sign * t;
}
static inline float trigammaf(float x) { return trigamma(x); }

/* Where BLAS is, and OpenMP's way to have threads call a function: said after loading. */
typedef void (*Product)();
typedef void (*Team)(void (*)(void *), void *, unsigned, unsigned);
static Product sgemm, dgemm;
static Team team;
void use(Product single, Product real, Team threads) { sgemm = single; dgemm = real; team = threads; }

/* Has torch do what C leaves to it: that of this number. Returns whether it failed. */
typedef int (*Torch)(int number);
static __thread Torch torch;

/* BLAS in Fortran's way: everything by address, columns first. */
#define product(gemm, ta, tb, m, n, k, a, lda, b, ldb, alpha, beta, c, ldc) \
    (gemm)(&(char){ta}, &(char){tb}, &(int){m}, &(int){n}, &(int){k}, LIKE(c, alpha), a, &(int){lda}, b, &(int){ldb}, \
           LIKE(c, beta), c, &(int){ldc})
#define LIKE(c, x) (sizeof *(c) == 4 ? (void *)&(float){x} : (void *)&(double){x})

/* The first of n numbers that falls to a part; in long rows, at the beginning of a line of the cache. */
#define FIRST(n, part) ((part) == PARTS || (n) < 4096 ? (n) * (int64_t)(part) / PARTS : (n) * (int64_t)(part) / PARTS / 64 * 64)
typedef void (*Shared)(char *restrict own, char *const *restrict x, int part);
struct shared { Shared body; char *own, *const *x; int next; };
static void take(void *given) {
    struct shared *s = given;
    for (int part; (part = __atomic_fetch_add(&s->next, 1, __ATOMIC_RELAXED)) < PARTS;) s->body(s->own, s->x, part);
}
/* A thread takes the next part when it comes, so it does not matter how many threads there are. */
static inline void share(Shared body, char *own, char *const *x) {
    struct shared s = {body, own, x, 0};
    team(take, &s, PARTS, 0);
}
