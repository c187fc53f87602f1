#include "worker/graph/part_links.h"

#include "common/mem.h"

static const char *const split_names[PART_LINKS] = {"valid", "test"};
static const char *const column_names[] = {"sources", "targets", "relations"};

/* The snapshot's array, [count, 2 or 3]; NULL when it has none. */
static const int32_t *links_of(const struct snapshot *s, size_t split, uint64_t *ret_count,
                               uint64_t *ret_cols) {
    const struct npy *array = split == 0 ? &s->valid_edges : &s->test_edges;
    *ret_cols = s->edge_types ? 3 : 2;
    *ret_count = array->data ? array->count / *ret_cols : 0;
    return array->data;
}

void held_out_deal(const struct snapshot *snapshot, uint32_t parts, const int32_t *owner,
                   struct held_out ret[PART_LINKS]) {
    for (size_t split = 0; split < PART_LINKS; split++) {
        uint64_t count, cols;
        const int32_t *links = links_of(snapshot, split, &count, &cols);
        struct held_out *held = &ret[split];
        *held = (struct held_out){.order = mem_array(count, sizeof *held->order),
                                  .starts = mem_array((size_t)parts + 1, sizeof *held->starts)};
        /* A counting sort; starts[k + 1] first counts, then says where part k's next one goes. */
        for (uint64_t i = 0; i < count; i++)
            held->starts[owner[links[i * cols + 1]] + 1]++;
        uint64_t before = 0;
        for (uint32_t k = 0; k < parts; k++) {
            uint64_t own = held->starts[k + 1];
            held->starts[k + 1] = before;
            before += own;
        }
        for (uint64_t i = 0; i < count; i++)
            held->order[held->starts[owner[links[i * cols + 1]] + 1]++] = i;
    }
}

void held_out_done(struct held_out held[PART_LINKS]) {
    for (size_t split = 0; split < PART_LINKS; split++) {
        mem_free(held[split].order);
        mem_free(held[split].starts);
    }
}

uint64_t part_links_bytes(const struct cut *cut, uint32_t number) {
    uint64_t links = 0;
    for (size_t split = 0; split < PART_LINKS; split++)
        links += cut->held[split].starts[number + 1] - cut->held[split].starts[number];
    return links * (cut->snapshot->edge_types ? 3 : 2) * sizeof(int32_t);
}

uint64_t part_links_collect(const struct cut *cut, struct desk *desk, uint32_t number,
                            uint64_t local) {
    for (size_t split = 0; split < PART_LINKS; split++) {
        const struct held_out *held = &cut->held[split];
        uint64_t count, cols;
        const int32_t *links = links_of(cut->snapshot, split, &count, &cols);
        for (uint64_t at = held->starts[number]; at < held->starts[number + 1]; at++) {
            int32_t source = links[held->order[at] * cols];
            if (desk->local_of[source] >= 0)
                continue;
            desk->local_of[source] = (int32_t)local;
            desk->nodes[local++] = source;
        }
    }
    return local;
}

static int write_column(struct cut *cut, const char *dir, size_t split, size_t column,
                        const int32_t *items, uint64_t count, struct error *reterr) {
    _cleanup_(mem_free_p) char *path =
        mem_printf("%s/%s_%s.npy", dir, split_names[split], column_names[column]);
    struct npy_writer *writer = NULL;
    int r = npy_create(path, NPY_I4, 0, &writer, reterr);
    if (r == 0)
        r = part_finish(writer, part_append(cut, writer, NPY_I4, items, count, reterr), reterr);
    return r;
}

int part_links_write(struct cut *cut, const struct desk *desk, uint32_t number, const char *dir,
                     struct part *part, struct error *reterr) {
    int r = 0;
    for (size_t split = 0; r == 0 && split < PART_LINKS; split++) {
        const struct held_out *held = &cut->held[split];
        uint64_t count, cols;
        const int32_t *links = links_of(cut->snapshot, split, &count, &cols);
        if (!links)
            continue;
        uint64_t own = held->starts[number + 1] - held->starts[number], n = 0;
        _cleanup_(mem_free_p) int32_t *columns = mem_array(own * cols, sizeof *columns);
        for (uint64_t i = 0; i < own; i++) {
            const int32_t *link = links + held->order[held->starts[number] + i] * cols;
            if (desk->local_of[link[0]] < 0) /* without a halo */
                continue;
            columns[n] = desk->local_of[link[0]];
            columns[own + n] = desk->local_of[link[1]];
            if (cols == 3)
                columns[2 * own + n] = link[2];
            n++;
        }
        for (size_t column = 0; r == 0 && column < cols; column++)
            r = write_column(cut, dir, split, column, columns + column * own, n, reterr);
        part->links[split] = n;
    }
    return r;
}
