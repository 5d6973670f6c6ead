// Times ik_llama.cpp over a filled cache; `compare.py` compiles it beside that program's libraries.
//
//     ik_depth MODEL CACHE_TYPE THREADS REPACK KIND N DEPTH
//
// 512 tokens are read, their saved cache is made longer by repeating its rows until it holds DEPTH tokens, and that is loaded
// again. Then N tokens are read at once (KIND "pp") or one after the other (KIND "tg"). Prints tokens per second. Flash
// attention is on. Whatever in the saved cache does not fit the expected form is an error.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "llama.h"

static const int32_t SAMPLE = 512;

[[noreturn]] static void fail(const std::string & why) {
    fprintf(stderr, "ik_depth: %s\n", why.c_str());
    exit(1);
}

// Reads the saved cache from front to back, and writes the longer one.
struct Repeater {
    const std::vector<uint8_t> & from;
    std::vector<uint8_t> to;
    size_t at = 0;

    const uint8_t * take(size_t n) {
        if (n > from.size() - at) {
            fail("the saved cache ends early");
        }
        at += n;
        return from.data() + at - n;
    }

    template <typename T> void put(T value) {
        const auto * bytes = reinterpret_cast<const uint8_t *>(&value);
        to.insert(to.end(), bytes, bytes + sizeof value);
    }

    template <typename T> T copy() {
        T value;
        memcpy(&value, take(sizeof value), sizeof value);
        put(value);
        return value;
    }

    // The keys or the values of a layer: type, bytes per row, rows.
    void rows(uint32_t n_cells, uint32_t depth) {
        copy<int32_t>();
        const auto row = copy<uint64_t>();
        const uint8_t * data = take(n_cells * row);
        for (uint32_t done = 0; done < depth; done += n_cells) {
            to.insert(to.end(), data, data + std::min(n_cells, depth - done) * row);
        }
    }
};

static std::vector<uint8_t> repeated(const std::vector<uint8_t> & state, uint32_t depth) {
    Repeater r{state, {}};
    uint32_t n_cells;
    memcpy(&n_cells, r.take(4), 4);
    if (n_cells != static_cast<uint32_t>(SAMPLE)) {
        fail("the saved cache has another number of cells");
    }
    r.put(depth);
    r.take(n_cells * 8ul);
    for (uint32_t i = 0; i < depth; ++i) {
        r.put(i);
        r.put(uint32_t(0)); // no list of sequences
    }
    const auto transposed = r.copy<uint32_t>();
    if (transposed != 0) {
        fail("the saved values are transposed");
    }
    const auto n_layer = r.copy<uint32_t>();
    for (uint32_t i = 0; i < 2 * n_layer; ++i) {
        r.rows(n_cells, depth);
    }
    r.copy<uint32_t>();
    if (r.at != state.size()) {
        fail("the saved cache has more than it should");
    }
    return std::move(r.to);
}

static void decode(llama_context * ctx, std::vector<llama_token> tokens, int32_t position) {
    if (llama_decode(ctx, llama_batch_get_one(tokens.data(), tokens.size(), position, 0)) != 0) {
        fail("cannot decode");
    }
}

int main(int argc, char ** argv) {
    if (argc != 8) {
        fail("wants MODEL CACHE_TYPE THREADS REPACK KIND N DEPTH");
    }
    const std::string cache = argv[2], kind = argv[5];
    const int threads = atoi(argv[3]), n = atoi(argv[6]), depth = atoi(argv[7]);
    llama_backend_init();

    auto model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    model_params.repack_tensors = atoi(argv[4]) != 0;
    model_params.use_mmap = !model_params.repack_tensors;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (model == nullptr) {
        fail(std::string("cannot load ") + argv[1]);
    }
    auto params = llama_context_default_params();
    params.n_ctx = depth + SAMPLE + n;
    params.n_batch = params.n_ubatch = SAMPLE;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn = true;
    if (cache != "q8_0" && cache != "f16") {
        fail("cannot fill a cache of type " + cache);
    }
    params.type_k = params.type_v = cache == "q8_0" ? GGML_TYPE_Q8_0 : GGML_TYPE_F16;
    llama_context * ctx = llama_init_from_model(model, params);
    if (ctx == nullptr) {
        fail("cannot make a context");
    }

    std::vector<llama_token> tokens(SAMPLE);
    for (int32_t i = 0; i < SAMPLE; ++i) {
        tokens[i] = 1000 + i * 37;
    }
    decode(ctx, tokens, 0);
    std::vector<uint8_t> state(llama_state_seq_get_size(ctx, 0, 0));
    state.resize(llama_state_seq_get_data(ctx, state.data(), state.size(), 0, 0));
    const auto longer = repeated(state, depth);
    if (llama_state_seq_set_data(ctx, longer.data(), longer.size(), 0, 0) == 0) {
        fail("the longer cache was refused");
    }
    if (llama_kv_cache_seq_pos_max(ctx, 0) != depth - 1) {
        fail("the longer cache is not as long as asked for");
    }

    const auto start = std::chrono::steady_clock::now();
    if (kind == "pp") {
        tokens.resize(n);
        decode(ctx, tokens, depth);
    } else {
        for (int i = 0; i < n; ++i) {
            decode(ctx, {tokens[i % SAMPLE]}, depth + i);
        }
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    printf("%.4f\n", n / took.count());
    return 0;
}
