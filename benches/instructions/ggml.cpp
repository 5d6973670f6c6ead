// The same work in ggml, for benches/instructions/count.sh: products by the better of plain and repacked weights, attention by its
// flash attention.
//
// ggml product TYPE COLS ROWS TOKENS TIMES plain|repack
// ggml attention TYPE DEPTH TOKENS TIMES
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

static ggml_type type_of(const char *name) {
    const ggml_type all[] = {GGML_TYPE_Q4_K, GGML_TYPE_Q6_K, GGML_TYPE_Q5_K, GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, GGML_TYPE_F16};
    for (ggml_type type : all) {
        if (strcasecmp(name, ggml_type_name(type)) == 0) return type;
    }
    fprintf(stderr, "no type %s\n", name);
    exit(1);
}

static void fill(ggml_tensor *t, uint32_t seed) {
    std::vector<uint8_t> bytes(ggml_nbytes(t));
    if (t->type == GGML_TYPE_F32) {
        float *f = (float *)bytes.data();
        for (int64_t i = 0; i < ggml_nelements(t); i++) f[i] = (float)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1.0f;
    } else {
        // Small bytes keep the scales finite.
        for (uint8_t &byte : bytes) byte = ((seed = seed * 1664525u + 1013904223u) >> 16) & 0x3b;
    }
    ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
}

int main(int argc, char **argv) {
    const bool product = argc == 8 && strcmp(argv[1], "product") == 0;
    if (!product && !(argc == 6 && strcmp(argv[1], "attention") == 0)) {
        fprintf(stderr, "usage: ggml product TYPE COLS ROWS TOKENS TIMES plain|repack | attention TYPE DEPTH TOKENS TIMES\n");
        return 1;
    }
    const ggml_type type = type_of(argv[2]);
    ggml_backend_t cpu = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(cpu, 1);
    ggml_backend_buffer_type_t plain = ggml_backend_cpu_buffer_type(), held = plain;
    if (product && strcmp(argv[7], "repack") == 0) {
        ggml_backend_dev_t device = ggml_backend_get_device(cpu);
        auto extra = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
            ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts");
        for (ggml_backend_buffer_type_t *types = extra ? extra(device) : nullptr; types && *types; types++) held = *types;
        if (held == plain) return 2;
    }
    ggml_context *weights = ggml_init({ggml_tensor_overhead() * 8, nullptr, true});
    ggml_context *rest = ggml_init({ggml_tensor_overhead() * 64 + ggml_graph_overhead(), nullptr, true});
    ggml_tensor *out;
    std::vector<ggml_tensor *> filled;
    long times;
    if (product) {
        const long cols = atol(argv[3]), rows = atol(argv[4]), tokens = atol(argv[5]);
        times = atol(argv[6]);
        ggml_tensor *w = ggml_new_tensor_2d(weights, type, cols, rows), *x = ggml_new_tensor_2d(rest, GGML_TYPE_F32, cols, tokens);
        out = ggml_mul_mat(rest, w, x);
        filled = {w, x};
        if (!ggml_backend_alloc_ctx_tensors_from_buft(weights, held)) return 1;
        if (held != plain && !ggml_backend_supports_op(cpu, out)) return 2;
        if (held != plain && w->extra == nullptr) return 2; // this type has no other order
    } else {
        const long depth = atol(argv[3]), tokens = atol(argv[4]), n_kv = (depth + tokens + 255) / 256 * 256;
        times = atol(argv[5]);
        const long heads = 12, heads_kv = 2, d = 128;
        ggml_tensor *q = ggml_new_tensor_3d(rest, GGML_TYPE_F32, d, tokens, heads);
        ggml_tensor *k = ggml_new_tensor_3d(weights, type, d, n_kv, heads_kv), *v = ggml_new_tensor_3d(weights, type, d, n_kv, heads_kv);
        ggml_tensor *mask = ggml_new_tensor_2d(rest, GGML_TYPE_F16, n_kv, (tokens + 63) / 64 * 64);
        out = ggml_flash_attn_ext(rest, q, k, v, mask, 0.088388f, 0.0f, 0.0f);
        filled = {q, k, v};
        if (!ggml_backend_alloc_ctx_tensors_from_buft(weights, plain)) return 1;
        if (!ggml_backend_alloc_ctx_tensors_from_buft(rest, plain)) return 1;
        std::vector<ggml_fp16_t> seen(ggml_nelements(mask), ggml_fp32_to_fp16(-INFINITY));
        for (long i = 0; i < tokens; i++)
            for (long j = 0; j <= depth + i; j++) seen[i * n_kv + j] = 0;
        ggml_backend_tensor_set(mask, seen.data(), 0, ggml_nbytes(mask));
    }
    if (product && !ggml_backend_alloc_ctx_tensors_from_buft(rest, plain)) return 1;
    uint32_t seed = 1;
    for (ggml_tensor *t : filled) fill(t, seed++);
    ggml_cgraph *graph = ggml_new_graph(rest);
    ggml_build_forward_expand(graph, out);
    for (long i = 0; i < times; i++) {
        if (ggml_backend_graph_compute(cpu, graph) != GGML_STATUS_SUCCESS) return 1;
    }
    return 0;
}
