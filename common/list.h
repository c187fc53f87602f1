/* An intrusive doubly linked list. A node is embedded in its owner; the list owns nothing and locks
 * nothing. An empty list points at itself; list_init before use. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

#define LIST_OWNER(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

static inline void list_init(struct list *list) {
    list->next = list->prev = list;
}
static inline bool list_empty(const struct list *list) {
    return list->next == list;
}
static inline void list_append(struct list *list, struct list *node) {
    node->prev = list->prev;
    node->next = list;
    list->prev->next = node;
    list->prev = node;
}
/* Leaves the node initialised, so removing twice is harmless. */
static inline void list_remove(struct list *node) {
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}
/* The first node, removed; NULL when empty. */
static inline struct list *list_pop(struct list *list) {
    if (list_empty(list))
        return NULL;
    struct list *node = list->next;
    list_remove(node);
    return node;
}
/* Moves all of from to the end of to; from is empty afterwards. */
static inline void list_move_all(struct list *to, struct list *from) {
    if (list_empty(from))
        return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    list_init(from);
}
/* for (LIST_EACH(node, &list)) ... ; node may not be removed inside. */
#define LIST_EACH(node, head)                                                                      \
    struct list *node = (head)->next;                                                              \
    node != (head);                                                                                \
    node = node->next
