// Sequences of a batch that have caches of their own: `SeqTable` of table.rs writes what is read here.
#pragma once

#include <stdint.h>

struct CachedSeq {
    // Of all layers: head `ih` of layer `il` begins at `(il * n_head_kv + ih) * stride` bytes, one row per slot.
    uint8_t *k, *v;
    // (layers, n_state)
    float *states;
    uint64_t stride_k, stride_v;
    // Its first row of the batch, how many it has, and slots filled before them.
    int first, n, past;
    // Ranges of keys where all rows attend, and where only those from the first one on that is wanted do.
    int n_splits[2];
    int padding;
};

struct SeqTable {
    // Null where rows are those of no cache.
    const CachedSeq *seqs;
    // Of each row of the batch, which sequence it belongs to.
    const int *seq_of;
};
